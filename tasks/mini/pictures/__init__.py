"""What pictures of `mini` show and how they are drawn; it knows nothing of tasks."""
