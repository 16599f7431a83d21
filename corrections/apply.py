"""Corrections: what actions that came after their sample was written change in it.

From rows of `samples/` and of `late_actions/` (docs/sample-format.md) to rows of kind "correction"
(docs/corrections.md). No Flink in here, so that a trainer can use it as well as the job.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.actions import NEEDS_VALUE, ActionKind
from schemas.features import FeatureSchema
from schemas.labels import exact_sum, without_action
from schemas.samples import PARTITIONS
from schemas.samples import samples as sample_layout

#: `kind` of the rows that are made here.
CORRECTION = "correction"

#: Of a sample that is made anew: at least one version of it was left out before.
ANEW_REVISION = 1

#: What tells samples apart; `sample_id` stands for it in 64 bits only, and an id of a request that
#: was forgotten may be used again.
_NAME = ("user_id", "request_id", "event_time", "position")

#: What `latest` needs to see.
VERSION = (*_NAME, "revision")

#: What a late action says of its sample in columns of the same name.
_SHARED = ("sample_id", "request_id", "user_id", "item_id", "position")

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

#: Given the id and the features of a sample that turns out an exposed negative: the rate at which
#: it is written, or None when it is not (docs/join-semantics.md 9).
NegativeRate = Callable[[int, Mapping[str, Any]], float | None]


@dataclass
class Corrections:
    """What `corrections` made.

    `rows`: in the layout of the samples. `fates`: late actions by (kind of action, fate), each
    action once. `labels`: by kind of action, labels (or their delays) that are others now.
    `anew`: how many of the rows are of samples that had been left out.
    """

    rows: pa.Table
    fates: Counter[tuple[str, Fate]] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    anew: int = 0


def latest(samples: pa.Table) -> pa.Table:
    """The last revision of each sample, in the order of the table."""
    if not samples.num_rows:
        return samples
    names = [_codes(samples[column]) for column in _NAME]
    order = np.lexsort((_codes(samples["revision"]), *names))
    same = np.logical_and.reduce([np.diff(name[order]) == 0 for name in names])
    return samples.take(np.sort(order[np.append(~same, True)]))


def _codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Integers that differ where the values do; of integers, these themselves."""
    if not pa.types.is_integer(column.type):
        column = column.combine_chunks().dictionary_encode().indices
    return np.asarray(column.to_numpy(), dtype=np.int64)


def corrected(
    samples: pa.Table,
    late: pa.Table,
    kinds: Sequence[ActionKind],
    *,
    exposure: str | None = None,
    anew: bool = True,
    negative_rate: NegativeRate | None = None,
) -> pa.Table:
    """`samples` with the rows of `corrections` after them; `latest` of it is the corrected set.

    Rows of kind "correction" that are in `samples` already are replaced, so `late` is to have all
    late actions, not only the new ones. Raises as `corrections` does.
    """
    written = samples.filter(pc.not_equal(samples["kind"], CORRECTION))
    made = corrections(
        written, late, kinds, exposure=exposure, anew=anew, negative_rate=negative_rate
    )
    return pa.concat_tables([written, made.rows])


def corrections(
    samples: pa.Table,
    late: pa.Table,
    kinds: Sequence[ActionKind],
    *,
    exposure: str | None = None,
    anew: bool = True,
    negative_rate: NegativeRate | None = None,
) -> Corrections:
    """One row for each sample that a late action (reason `after_settle`) changes.

    `samples` and `late` are tables as the join writes them. A row is the last revision with labels
    and delays by the aggregates of `kinds`, revision + 1, kind "correction", all kinds mature,
    observed for the longest window, and exposed if exposure is known at all.

    A sample that has no row was left out by sampling, or as unexposed: it is made anew from the
    features that a late action carries. `anew` False: nothing leaves samples out, so a missing one
    is only counted. `exposure`: the kind of `[exposure]`. With it, `negative_rate` says at which
    rate exposed negatives are written (None: all are): a sample that is one still is decided on as
    the join would have, and one that would not have been written, but is a positive now, may have
    had an exposure that nobody knows of any more: label and delay of that kind are null.

    `sampling_rate` of what is not a negative any more is 1.0 if its actions carry features, for
    then those that had been left out are made anew; else it stays, and the row stands for them too.

    Raises ValueError for samples without the columns of `kinds`, or features of another type.
    """
    missing = [name for name in _own_columns(kinds) if name not in samples.column_names]
    if missing:
        raise ValueError(f"the samples have no column {missing[0]!r}")
    made = Corrections(samples.slice(0, 0))
    by_sample = _by_sample(late, {kind.name: kind for kind in kinds}, made.fates)
    written = samples.filter(pc.not_equal(samples["kind"], CORRECTION))
    # the ids leave few rows to be looked at by name
    base = written.filter(pc.is_in(written["sample_id"], value_set=late["sample_id"]))
    base = latest(_named(base, by_sample))
    rows = [_correct_written(base, by_sample, kinds, exposure, made)]
    found = set(_names(base))
    absent = {name: actions for name, actions in by_sample.items() if name not in found}
    if anew:
        rows.append(_make_anew(absent, samples.schema, kinds, exposure, negative_rate, made))
    else:
        for actions in absent.values():
            _count(made.fates, actions, "not_written")
    made.rows = pa.concat_tables(rows)
    return made


def _own_columns(kinds: Sequence[ActionKind]) -> list[str]:
    """Those of every sample, whatever its features are."""
    return list(sample_layout(FeatureSchema(()), kinds).names)


_Name = tuple[Any, ...]


def _names(samples: pa.Table) -> list[_Name]:
    return list(zip(*(samples[column].to_pylist() for column in _NAME), strict=True))


def _named(samples: pa.Table, names: Container[_Name]) -> pa.Table:
    return samples.filter(pa.array([name in names for name in _names(samples)], type=pa.bool_()))


class _Late(NamedTuple):
    """A late action that would have been a label; `row` is all of it."""

    kind: str
    delay_ms: int
    value: float | None
    row: Mapping[str, Any]


class _Label(NamedTuple):
    value: Any
    delay_ms: int | None


def _by_sample(
    late: pa.Table, kinds: Mapping[str, ActionKind], fates: Counter[tuple[str, Fate]]
) -> dict[_Name, list[_Late]]:
    """The actions that can change a label, by sample; the others are counted."""
    by_sample: dict[_Name, list[_Late]] = defaultdict(list)
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
            sample = tuple(named[column] for column in _NAME)
            by_sample[sample].append(_Late(name, row["delay_ms"], value, row))
    return by_sample


def _merged(kind: ActionKind, before: _Label, actions: Sequence[_Late]) -> _Label | None:
    """The label with more actions in it (docs/join-semantics.md 7); None: it cannot be known."""
    values = [a.value for a in actions if a.value is not None]
    first = min(a.delay_ms for a in actions)
    label, delay = before
    match kind.label:
        case "any":
            label = 1
        case "count":
            label = (label or 0) + len(actions)
        case "sum":
            label = exact_sum([label or 0.0, *values])
        case "max":
            label = max(values if label is None else [label, *values])
        case "last":
            # The row knows the time of the first action in its label, not that of the last.
            if delay is None:
                label = max((a.delay_ms, a.value) for a in actions)[1]
            elif max(a.delay_ms for a in actions) >= delay:
                return None
    if label == 0:
        label = abs(label)  # a zero has no sign, as in the rows of the join
    return _Label(label, first if delay is None else min(delay, first))


def _without(kind: ActionKind) -> _Label:
    return _Label(without_action(kind), None)


def _correct(
    labels: Mapping[str, _Label],
    actions: Sequence[_Late],
    kinds: Sequence[ActionKind],
    made: Corrections,
    changed_fate: Fate,
) -> dict[str, _Label]:
    """The labels that are others with these actions; what became of the actions is counted."""
    changed: dict[str, _Label] = {}
    for kind in kinds:
        of_kind = [a for a in actions if a.kind == kind.name]
        if not of_kind:
            continue
        label = _merged(kind, labels[kind.name], of_kind)
        if label is None:
            _count(made.fates, of_kind, "order_unknown")
        elif label == labels[kind.name]:
            _count(made.fates, of_kind, "no_change")
        else:
            _count(made.fates, of_kind, changed_fate)
            made.labels[kind.name] += 1
            changed[kind.name] = label
    return changed


def _count(fates: Counter[tuple[str, Fate]], actions: Sequence[_Late], fate: Fate) -> None:
    for action in actions:
        fates[action.kind, fate] += 1


def _is_negative(labels: Mapping[str, _Label], exposure: str | None) -> bool:
    """Rule 9: no action of a kind other than the exposure's."""
    return all(label.delay_ms is None for k, label in labels.items() if k != exposure)


def _carries_features(actions: Sequence[_Late]) -> bool:
    return any(a.row.get("features") is not None for a in actions)


# -- samples that were written ---------------------------------------------------------------------


def _correct_written(
    base: pa.Table,
    by_sample: Mapping[_Name, Sequence[_Late]],
    kinds: Sequence[ActionKind],
    exposure: str | None,
    made: Corrections,
) -> pa.Table:
    columns = {name: base[name].to_pylist() for name in _own_columns(kinds)}
    kept: list[int] = []
    for n, sample in enumerate(_names(base)):
        actions = by_sample[sample]
        labels = {
            k.name: _Label(columns[f"label_{k.name}"][n], columns[f"delay_{k.name}_ms"][n])
            for k in kinds
        }
        changed = _correct(labels, actions, kinds, made, "corrected")
        if not changed:
            continue
        kept.append(n)
        labels |= changed
        for kind, label in changed.items():
            columns[f"label_{kind}"][n], columns[f"delay_{kind}_ms"][n] = label
        if columns["exposed"][n] is not None:
            columns["exposed"][n] = True
        if _carries_features(actions) and not _is_negative(labels, exposure):
            columns["sampling_rate"][n] = 1.0
        _mark(columns, n, kinds, columns["revision"][n] + 1)
    rows = base.take(pa.array(kept, type=pa.int64()))
    for name, values in columns.items():
        index = rows.schema.get_field_index(name)
        new = pa.array([values[n] for n in kept], type=rows.schema.field(index).type)
        rows = rows.set_column(index, rows.schema.field(index), new)
    return rows


def _mark(
    columns: Mapping[str, list[Any]], n: int, kinds: Sequence[ActionKind], revision: int
) -> None:
    """What every correction says of itself. Its request had settled: all windows are over."""
    for kind in kinds:
        columns[f"mature_{kind.name}"][n] = True
    columns["observed_ms"][n] = max(kind.window_ms for kind in kinds)
    columns["revision"][n], columns["kind"][n] = revision, CORRECTION


# -- samples that were left out --------------------------------------------------------------------


def _make_anew(
    absent: Mapping[_Name, Sequence[_Late]],
    schema: pa.Schema,
    kinds: Sequence[ActionKind],
    exposure: str | None,
    negative_rate: NegativeRate | None,
    made: Corrections,
) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for actions in absent.values():
        if not _carries_features(actions):
            _count(made.fates, actions, "no_features")
            continue
        told = next(a.row for a in actions if a.row.get("features") is not None)
        features = json.loads(told["features"])
        # as an exposed negative it would have been written at this rate, or (None) would not
        rate: float | None = 1.0
        if exposure is not None and negative_rate is not None:
            rate = negative_rate(told["sample_id"], features)
        if rate is None and all(a.kind == exposure for a in actions):
            _count(made.fates, actions, "no_change")
            continue
        labels = {kind.name: _without(kind) for kind in kinds}
        labels |= _correct(labels, actions, kinds, made, "made_anew")
        if exposure is not None and rate is None:
            # it was left out whether it was exposed or not, and nothing says which
            labels[exposure] = _Label(None, None)
        if not _is_negative(labels, exposure):
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
        _mark(columns, n, kinds, ANEW_REVISION)
    return pa.table([_typed(columns[f.name], f) for f in schema], schema=schema)


def _typed(values: list[Any], of: pa.Field) -> pa.Array:
    try:
        return pa.array(values, type=of.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"late actions carry {of.name!r} as another type: {error}") from None
