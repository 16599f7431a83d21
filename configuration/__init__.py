"""How configuration files are read, and what a pipeline and a trainer both declare in them."""
