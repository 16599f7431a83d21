"""What a model computes from the rows that were pulled for a batch."""
