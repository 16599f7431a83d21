"""How long to wait for a label: the parts of `python -m tools.advise_window`.

`read_samples` or `read_events` make `observations`. `survival` and `tail` are estimators over them,
and `delays` combines the two. `cost` computes what waiting costs. `terminal` and `page` show the
result.
"""
