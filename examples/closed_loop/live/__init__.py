"""The closed loop on real processes: world, ranking, Kafka, join, trainer, and ranking again."""
