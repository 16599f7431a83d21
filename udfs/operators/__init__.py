"""The Flink operators around the core. They do what it decides."""
