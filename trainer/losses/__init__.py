"""What rows with delayed labels say of each action, and the losses that learn from them."""
