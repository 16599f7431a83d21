"""The join against two plans in Flink SQL: ``python -m benchmarks.join``."""
