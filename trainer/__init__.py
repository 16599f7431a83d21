"""Trains a sparse model on the joined samples, with its parameters on servers. Nothing of Flink."""

from pathlib import Path

from trainer import caches

# before anything here imports numba or matplotlib
caches.prepare(Path(__file__).parent)
