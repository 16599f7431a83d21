"""The emission policies side by side on a generated day."""
