"""Tries the mapping of a pipeline on some records: what they become, and why not."""
