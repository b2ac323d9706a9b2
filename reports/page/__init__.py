"""What the one-file page shows, as values its templates only have to write down."""
