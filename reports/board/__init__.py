"""What is true: entries, averages, ranks, published scores, and how a run reproduces them."""
