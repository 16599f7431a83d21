"""Records of any shape as events: where each field of ours is in a record of theirs."""
