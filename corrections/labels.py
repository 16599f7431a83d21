"""How late actions change the labels of a sample (docs/join-semantics.md 7, 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from corrections.late_actions import Late
from schemas.actions import ActionKind
from schemas.labels import Tally, Value, exact_sum, without_action


class Label(NamedTuple):
    """The label of one kind, and the delay of its first action (None: there is no action)."""

    value: Value
    delay_ms: int | None


def without(kind: ActionKind) -> Label:
    """The label of a sample without any action of the kind."""
    return Label(without_action(kind), None)


def merged(kind: ActionKind, before: Label, actions: Sequence[Late]) -> Label | None:
    """The label with at least one more action in it; None if it cannot be known."""
    late = Tally(kind.label)
    for action in actions:
        late.add(action.delay_ms, action.value)
    label, delay = before
    if delay is None:
        return Label(late.value, late.first_time)
    match kind.label:
        case "count":
            label = (label or 0) + late.count
        case "sum":
            # from the single values, so that the sum is rounded once
            label = exact_sum([label or 0.0, *(a.value for a in actions if a.value is not None)])
        case "max":
            label = max(v for v in (label, late.value) if v is not None)
        case "last":
            # The row knows the time of the first action in its label, not that of the last.
            if max(a.delay_ms for a in actions) >= delay:
                return None
    return Label(label, min(delay, late.first_time))


def is_negative(labels: Mapping[str, Label], exposure: str | None) -> bool:
    """Rule 9: there is no action of a kind other than the exposure's."""
    return all(label.delay_ms is None for k, label in labels.items() if k != exposure)
