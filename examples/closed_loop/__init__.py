"""A simulated world of users and items, and the loop that ranks for it and learns from it."""
