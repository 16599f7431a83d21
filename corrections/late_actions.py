"""Late actions: which sample each belongs to, and what becomes of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from corrections.versions import NAME, Name
from schemas.actions import NEEDS_VALUE, ActionKind

#: What became of a late action.
Fate = Literal[
    "outside_window",  # too late for its own kind: changes no label
    "no_change",  # the label says it already, or the negative is still left out by sampling
    "corrected",  # in a new row of a sample that was written
    "made_anew",  # in the row of a sample that had been left out
    "no_features",  # left out, and the action does not carry what it would be made from
    "not_written",  # the sample is not there, and nothing leaves samples out
    "order_unknown",  # `last`: whether it is later than the action in the label cannot be known
    "no_value",  # the kind's label needs a value, which was not so when the action came
    "unknown_kind",  # not configured any more
]

#: How many late actions there are by (kind of action, fate).
Fates = Counter[tuple[str, Fate]]


class Late(NamedTuple):
    """A late action that would have been a label. `row`: all its columns."""

    kind: str
    delay_ms: int
    value: float | None
    row: Mapping[str, Any]


def by_sample(
    late: pa.Table, kinds: Mapping[str, ActionKind], fates: Fates
) -> dict[Name, list[Late]]:
    """The actions that can change a label, by the name of their sample.

    The others are counted in `fates`.
    """
    found: dict[Name, list[Late]] = defaultdict(list)
    for row in late.to_pylist():
        name, value = row["action"], row["value"]
        if row["reason"] != "after_settle":
            fates[name, "outside_window"] += 1
        elif name not in kinds:
            fates[name, "unknown_kind"] += 1
        elif value is None and kinds[name].label in NEEDS_VALUE:
            fates[name, "no_value"] += 1
        else:
            named = row | {"event_time": row["request_time"]}
            sample = tuple(named[column] for column in NAME)
            found[sample].append(Late(name, row["delay_ms"], value, row))
    return found


def count(fates: Fates, actions: Sequence[Late], fate: Fate) -> None:
    """Count these actions as having this fate."""
    for action in actions:
        fates[action.kind, fate] += 1


def carries_features(actions: Sequence[Late]) -> bool:
    """Whether one of them has the features of its sample."""
    return any(a.row.get("features") is not None for a in actions)
