"""What the host service keeps: one SQLite database, keys beside it."""
