"""Late actions, applied to samples."""
