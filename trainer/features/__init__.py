"""From rows of samples to keys and values."""
