"""Samples that were left out, made anew from the features that a late action carries."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from corrections.labels import Label, is_negative, without
from corrections.late_actions import Late, carries_features, count
from corrections.result import Corrections, changed_labels, mark
from corrections.versions import Name
from schemas.actions import ActionKind
from schemas.samples import PARTITIONS

#: The revision of a sample that is made anew: at least one version of it was left out before.
ANEW_REVISION = 1

#: Columns of a late action that describe its sample and have the same name there.
_SHARED = ("sample_id", "request_id", "user_id", "item_id", "position")

#: Given the id and the features of a sample that turns out an exposed negative: the rate at which
#: it is written, or None when it is not (docs/join-semantics.md 9).
NegativeRate = Callable[[int, Mapping[str, Any]], float | None]


def make_anew(
    absent: Mapping[Name, Sequence[Late]],
    schema: pa.Schema,
    kinds: Sequence[ActionKind],
    exposure: str | None,
    negative_rate: NegativeRate | None,
    made: Corrections,
) -> pa.Table:
    """Rows for samples that have none; `made` gets the counts.

    `absent`: their late actions. `schema`: of the samples. Others: see `apply.corrections`.
    """
    rows: list[dict[str, Any]] = []
    for actions in absent.values():
        if not carries_features(actions):
            count(made.fates, actions, "no_features")
            continue
        told = next(a.row for a in actions if a.row.get("features") is not None)
        features = json.loads(told["features"])
        # as an exposed negative it would have been written at this rate, or (None) would not
        rate: float | None = 1.0
        if exposure is not None and negative_rate is not None:
            rate = negative_rate(told["sample_id"], features)
        if rate is None and all(a.kind == exposure for a in actions):
            count(made.fates, actions, "no_change")
            continue
        labels = {kind.name: without(kind) for kind in kinds}
        labels |= changed_labels(labels, actions, kinds, made, "made_anew")
        if exposure is not None and rate is None:
            # it was left out whether it was exposed or not, and nothing says which
            labels[exposure] = Label(None, None)
        if not is_negative(labels, exposure):
            rate = 1.0
        row = features | {name: told.get(name) for name in (*_SHARED, *PARTITIONS)}
        row |= {"event_time": told["request_time"], "sampling_rate": rate}
        row["exposed"] = None if exposure is None else True
        for kind, (value, delay) in labels.items():
            row[f"label_{kind}"], row[f"delay_{kind}_ms"] = value, delay
        rows.append(row)
    made.anew = len(rows)
    columns = {field.name: [row.get(field.name) for row in rows] for field in schema}
    for n in range(len(rows)):
        mark(columns, n, kinds, ANEW_REVISION)
    return pa.table([_typed(columns[f.name], f) for f in schema], schema=schema)


def _typed(values: list[Any], of: pa.Field) -> pa.Array:
    try:
        return pa.array(values, type=of.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"late actions carry {of.name!r} as another type: {error}") from None
