"""Which committed files come next, and their rows: samples, and corrections by late actions."""
