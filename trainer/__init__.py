"""Trains a sparse model on the joined samples, with its parameters on servers. Nothing of Flink."""
