"""The model outside of the trainer: how it travels, and who predicts from it."""
