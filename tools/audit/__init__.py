"""Is every record accounted for? What `python -m tools.audit` is made of.

`source` reads records, `records` what they are; `output` finds what was written, `samples` reads
it; `impressions`, `versions`, `labels` and `actions` compare the two; `progress` says what must be
there by now; `report` keeps the accounts and shows them.
"""
