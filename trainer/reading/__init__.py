"""Which committed files come next, and their rows: samples, and what late actions correct."""
