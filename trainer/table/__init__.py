"""The parameters of one table on one shard, in memory."""
