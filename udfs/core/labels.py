"""From the actions joined to an impression to its labels (docs/join-semantics.md 7). Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from schemas.actions import ActionKind, Label
from schemas.events import ActionEvent

Value = int | float | None


class KindLabels(NamedTuple):
    """One kind's columns of a request: a value for each impression, in order of position.

    None when no impression had an action: all of them have `without_action` and no delay.
    """

    values: list[Value] | None
    delays_ms: list[int | None] | None
    mature: bool


def _sum(actions: Sequence[ActionEvent]) -> Value:
    # exactly rounded, so the order of arrival cannot show; the decoder bounds the values
    return math.fsum(a.value for a in actions if a.value is not None)


def _max(actions: Sequence[ActionEvent]) -> Value:
    return max((a.value for a in actions if a.value is not None), default=None)


def _last(actions: Sequence[ActionEvent]) -> Value:
    return max((a.event_time, a.value) for a in actions if a.value is not None)[1]


_AGGREGATES: Mapping[Label, Callable[[Sequence[ActionEvent]], Value]] = {
    "any": lambda actions: 1,
    "count": len,
    "sum": _sum,
    "max": _max,
    "last": _last,
}
_WITHOUT: Mapping[Label, Value] = {"any": 0, "count": 0, "sum": 0.0, "max": None, "last": None}


def without_action(kind: ActionKind) -> Value:
    """The label of an impression that no action of the kind was joined to."""
    return _WITHOUT[kind.label]


def label(kind: ActionKind, actions: Sequence[ActionEvent], request_time: int) -> tuple[Value, int]:
    """The label, and the delay of the first action in ms; `actions` has at least one."""
    return _AGGREGATES[kind.label](actions), min(a.event_time for a in actions) - request_time
