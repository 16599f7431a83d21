"""The whole path once: traffic, join, summary, training."""
