"""Corrections of samples that were written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from corrections.labels import Label, is_negative
from corrections.late_actions import Late, carries_features
from corrections.result import Corrections, changed_labels, mark
from corrections.versions import Name, names
from schemas.actions import ActionKind
from schemas.features import FeatureSchema
from schemas.samples import samples as sample_layout


def own_columns(kinds: Sequence[ActionKind]) -> list[str]:
    """Those of every sample, whatever its features are."""
    return list(sample_layout(FeatureSchema(()), kinds).names)


def correct_written(
    base: pa.Table,
    by_sample: Mapping[Name, Sequence[Late]],
    kinds: Sequence[ActionKind],
    exposure: str | None,
    made: Corrections,
) -> pa.Table:
    """Rows for the samples of `base` with a changed label; `made` gets the counts.

    `base`: the last version of each sample. `by_sample`: its late actions.
    """
    columns = {name: base[name].to_pylist() for name in own_columns(kinds)}
    kept: list[int] = []
    for n, sample in enumerate(names(base)):
        actions = by_sample[sample]
        labels = {
            k.name: Label(columns[f"label_{k.name}"][n], columns[f"delay_{k.name}_ms"][n])
            for k in kinds
        }
        changed = changed_labels(labels, actions, kinds, made, "corrected")
        if not changed:
            continue
        kept.append(n)
        labels |= changed
        for kind, label in changed.items():
            columns[f"label_{kind}"][n], columns[f"delay_{kind}_ms"][n] = label
        if columns["exposed"][n] is not None:
            columns["exposed"][n] = True
        if carries_features(actions) and not is_negative(labels, exposure):
            columns["sampling_rate"][n] = 1.0
        mark(columns, n, kinds, columns["revision"][n] + 1)
    rows = base.take(pa.array(kept, type=pa.int64()))
    for name, values in columns.items():
        index = rows.schema.get_field_index(name)
        new = pa.array([values[n] for n in kept], type=rows.schema.field(index).type)
        rows = rows.set_column(index, rows.schema.field(index), new)
    return rows
