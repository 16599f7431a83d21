"""One shard's parameters of one table, in memory."""
