"""Faults on real processes, made one after the other under load, and what they do to the rows."""
