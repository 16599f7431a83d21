"""The join core (pure), and the Flink functions around it."""
