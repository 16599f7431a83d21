"""What rows with delayed labels say about each action, and the losses that learn from them."""
