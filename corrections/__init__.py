"""What late actions change in samples that were already written."""
