"""The parameter server: shards, their copies, and how they are reached."""
