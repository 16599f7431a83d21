"""Proposes the features of a pipeline from a sample of its records."""
