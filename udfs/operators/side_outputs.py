"""What leaves the functions beside their main output: rejected records and late actions."""

from __future__ import annotations

from typing import Any

from pyflink.common import Types
from pyflink.datastream import OutputTag


def rejected() -> OutputTag:
    """Records that could not be used; `raw` is latin-1, `record_time` epoch ms."""
    string, long = Types.STRING(), Types.LONG()
    columns = {
        "stream": string,
        "reason": string,
        "message": string,
        "origin": string,
        "part": long,
        "off": long,
        "record_time": long,
        "raw": string,
        "dt": string,
        "hr": string,
    }
    return _tag("rejected", columns)


def late_actions() -> OutputTag:
    """Actions that came after their sample was made, with its name; `features` is JSON, or null."""
    string, long = Types.STRING(), Types.LONG()
    columns = {
        "sample_id": long,
        "request_id": string,
        "user_id": string,
        "item_id": string,
        "position": long,
        "request_time": long,
        "event_id": string,
        "action": string,
        "value": Types.DOUBLE(),
        "event_time": long,
        "delay_ms": long,
        "reason": string,
        "features": string,
        "dt": string,
        "hr": string,
    }
    return _tag("late-actions", columns)


def _tag(name: str, columns: dict[str, Any]) -> OutputTag:
    return OutputTag(name, Types.ROW_NAMED(list(columns), list(columns.values())))
