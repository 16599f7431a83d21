"""Realistic traffic with its truth, to try the system on."""
