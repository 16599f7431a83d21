"""How training runs: batches, clocks, workers, servers, and the session that controls them."""
