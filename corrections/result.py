"""The result of `apply.corrections`: rows, and counts of what became of the late actions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from corrections.labels import Label, merged
from corrections.late_actions import Fate, Fates, Late, count
from schemas.actions import ActionKind

#: `kind` of the rows that are made here.
CORRECTION = "correction"


@dataclass
class Corrections:
    """The result of `apply.corrections`.

    `rows`: with the columns of the samples. `fates`: late actions by (kind of action, fate); each
    action is counted once. `labels`: by kind of action, how many labels (or their delays) have
    changed. `anew`: how many of the rows are of samples that had been left out.
    """

    rows: pa.Table
    fates: Fates = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    anew: int = 0


def changed_labels(
    labels: Mapping[str, Label],
    actions: Sequence[Late],
    kinds: Sequence[ActionKind],
    made: Corrections,
    changed_fate: Fate,
) -> dict[str, Label]:
    """The labels that these actions change. Counts in `made` what became of the actions.

    `changed_fate`: the fate of an action that changes a label.
    """
    changed: dict[str, Label] = {}
    for kind in kinds:
        of_kind = [a for a in actions if a.kind == kind.name]
        if not of_kind:
            continue
        label = merged(kind, labels[kind.name], of_kind)
        if label is None:
            count(made.fates, of_kind, "order_unknown")
        elif label == labels[kind.name]:
            count(made.fates, of_kind, "no_change")
        else:
            count(made.fates, of_kind, changed_fate)
            made.labels[kind.name] += 1
            changed[kind.name] = label
    return changed


def mark(
    columns: Mapping[str, list[Any]], n: int, kinds: Sequence[ActionKind], revision: int
) -> None:
    """Set what is the same in every correction, in row `n` of `columns`.

    The request had settled, so all windows are over.
    """
    for kind in kinds:
        columns[f"mature_{kind.name}"][n] = True
    columns["observed_ms"][n] = max(kind.window_ms for kind in kinds)
    columns["revision"][n], columns["kind"][n] = revision, CORRECTION
