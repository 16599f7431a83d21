"""What is submitted to Flink: the joining job, and the parts of its graph."""
