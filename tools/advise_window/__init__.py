"""How long to wait for a label: what `python -m tools.advise_window` is made of.

`read_samples` or `read_events` give `observations`; `survival` and `tail` are estimators over them,
`delays` puts the two together; `cost` says what waiting costs; `terminal` and `page` show it.
"""
