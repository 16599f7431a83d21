"""Measurements of the project; each is a package that runs by `python -m benchmarks.<name>`."""
