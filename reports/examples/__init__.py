"""The queries that went wrong, and what was shown for them."""
