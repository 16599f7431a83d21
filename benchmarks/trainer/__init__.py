"""The trainer beside other learners of sparse models: ``python -m benchmarks.trainer``."""
