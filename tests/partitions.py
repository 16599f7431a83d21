"""The folder of an hour, for outputs that tests write by hand."""

from __future__ import annotations


def partition_of(hour: str) -> str:
    """`dt=2026-11-01/hr=00` of `2026-11-01T00`; the other way of `generations.hour_of`."""
    day, _, number = hour.partition("T")
    return f"dt={day}/hr={number}"
