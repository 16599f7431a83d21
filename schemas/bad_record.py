"""The verdict on a record that cannot be used."""

from __future__ import annotations


class BadRecord(Exception):  # noqa: N818 - it is an outcome, not a fault of the program
    """Why a record cannot be used: a reason of docs/events.md, and a sentence for people.

    `event_time` (epoch ms) is the record's, if it could be read and is within its bounds.
    """

    def __init__(self, reason: str, message: str, event_time: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.event_time = event_time
