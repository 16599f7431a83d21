"""Which files of an output hold its rows, for other programs."""
