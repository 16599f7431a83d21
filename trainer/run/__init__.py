"""Training as it runs: batches, clocks, workers, servers, and what holds them together."""
