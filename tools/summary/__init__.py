"""What a run wrote, as a table."""
