"""Programs that show the joining job and the trainer at work."""
