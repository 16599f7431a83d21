"""What the joining job is made of: configuration, sources, graph, sinks, and how it is run."""
