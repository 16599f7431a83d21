"""When samples come out, in units of the window, by event time: an input that stops.

Requests come every ``step_ms``; the input ends without telling so, and the watermark stands still.
A row is out iff the watermark has reached its request's time plus its delay, so the youngest
request that has a row without an action, and one with an action, tell the delays, to one step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from benchmarks.join import measure
from benchmarks.join.spec import DISORDER_MS, ITEMS, Plan, Spec
from benchmarks.join.sql_plans import CLICK_AFTER_MS

REQUESTS, STEP_MS, WINDOW_MS = 2_000, 1_000, 400_000
_OURS = re.compile(r"\+I\[-?\d+, r(\d+), (?:[^,]*, ){5}(\d), ")
_SQL = re.compile(r"\+I\[(\d+), \d+, [^,]*, (\d), ")


@dataclass(frozen=True)
class Delays:
    """In windows. `step`: how exactly it is known. `rows`: how many had come out."""

    without_action: float
    with_action: float
    step: float
    rows: int


def delays(plan: Plan) -> Delays:
    """Of the join alone. Raises measure.RunError."""
    lines = measure.rows_out(
        Spec("alone", plan, "hashmap", REQUESTS, 1, STEP_MS, WINDOW_MS, "delay")
    )
    pattern = _OURS if plan == "ours" else _SQL
    youngest = {"0": 0, "1": 0}
    for line in lines:
        match = pattern.match(line)
        if match is None:
            raise measure.RunError(f"not a row that was expected: {line[:200]}")
        youngest[match[2]] = max(youngest[match[2]], int(match[1]))
    watermark = (REQUESTS - 1) * STEP_MS - DISORDER_MS
    if plan == "over":
        # its requests are stamped a window later: the actions alone hold time back
        watermark += CLICK_AFTER_MS
    without, with_action = (
        (watermark - youngest[label] * STEP_MS) / WINDOW_MS for label in ("0", "1")
    )
    assert len(lines) <= REQUESTS * ITEMS
    return Delays(without, with_action, STEP_MS / WINDOW_MS, len(lines))
