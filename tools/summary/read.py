"""Reading what a run wrote (docs/sample-format.md).

Nothing but the Parquet is read, so it works for any output, also of a job that still runs. Which
files count says `schemas.generations`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from corrections.versions import VERSION, latest
from schemas import generations
from schemas.generations import Current

SHOWN_ROWS = 6


@dataclass(frozen=True)
class Part:
    """`samples`, `late_actions` or `rejected`. A partition is complete when it has `_SUCCESS`."""

    name: str
    rows: int = 0
    files: int = 0
    bytes: int = 0
    complete: int = 0
    incomplete: int = 0


@dataclass(frozen=True)
class KindSummary:
    """The labels of one action kind; positives + negatives + immature are its rows.

    `positives`: rows with an action. Of the rows without one, `negatives` are those whose window
    had closed, `immature` the others. `actions`: how many were joined, where the label counts them.
    Delays are of the first action of a row, in milliseconds, interpolated between neighbours; None
    without a positive.
    """

    kind: str
    positives: int
    negatives: int
    immature: int
    actions: int | None
    delay_median_ms: float | None
    delay_p95_ms: float | None

    @property
    def rate(self) -> float | None:
        """Positives as a share of all rows; None without rows."""
        rows = self.positives + self.negatives + self.immature
        return self.positives / rows if rows else None


@dataclass(frozen=True)
class Summary:
    """What lies under an output folder.

    `requests`: those that have rows. `repeated`: rows that a later version of their sample follows;
    `kinds` is about the last versions. `late` by (action, reason), `rejected` by (stream, reason),
    the most frequent first. `rows`: a few samples, the narrow columns only.
    """

    output: Path
    requests: int
    samples: Part
    late_actions: Part
    rejected_records: Part
    kinds: tuple[KindSummary, ...] = ()
    late: Mapping[tuple[str, str], int] = field(default_factory=dict)
    rejected: Mapping[tuple[str, str], int] = field(default_factory=dict)
    rows: tuple[Mapping[str, Any], ...] = ()
    repeated: int = 0

    @property
    def impressions(self) -> int:
        """One a row, but for those that are repeated."""
        return self.samples.rows - self.repeated

    def rejected_of(self, stream: str) -> int:
        """Records of `features` or `actions` that were rejected."""
        return sum(n for (of, _), n in self.rejected.items() if of == stream)

    @property
    def actions(self) -> tuple[int, bool]:
        """Actions that are somewhere in the output, and whether these are all there were.

        Where a label does not count (it says whether, or a sum), a positive stands for at least one
        action.
        """
        joined = sum(k.positives if k.actions is None else k.actions for k in self.kinds)
        exact = all(k.actions is not None or k.positives == 0 for k in self.kinds)
        return joined + self.late_actions.rows + self.rejected_of("actions"), exact


def summarise(output: Path) -> Summary:
    """Read what a job has written under `output`; a folder that is not there is an empty one.

    Raises OSError or ValueError (such as pyarrow.ArrowInvalid) for what cannot be read.
    """
    of = generations.current(output)
    samples, samples_part = _open(output, "samples", of)
    late, late_part = _open(output, "late_actions", of)
    rejected, rejected_part = _open(output, "rejected", of)
    revised = samples is not None and _is_revised(samples)
    kinds = _kinds(samples, revised=revised) if samples is not None else ()
    repeated = 0
    if samples is not None and revised:
        repeated = samples_part.rows - latest(samples.to_table(columns=list(VERSION))).num_rows
    return Summary(
        output=output,
        requests=_requests(samples) if samples is not None else 0,
        samples=samples_part,
        late_actions=late_part,
        rejected_records=rejected_part,
        kinds=kinds,
        late=_counts(late, "action", "reason") if late is not None else {},
        rejected=_counts(rejected, "stream", "reason") if rejected is not None else {},
        rows=_some_rows(samples) if samples is not None else (),
        repeated=repeated,
    )


def _open(output: Path, name: str, of: Current) -> tuple[ds.Dataset | None, Part]:
    """The files as one dataset, None if there are none, and how many of everything there is."""
    files = generations.files(output, name, of)
    partitions = {path.parent for path in files}
    complete = sum((partition / "_SUCCESS").exists() for partition in partitions)
    paths = [str(path) for path in files]
    dataset = ds.dataset(paths, format="parquet") if files else None
    if dataset is not None:
        # files of before an action or a feature was added, or got a wider type, are different
        fragments = list(dataset.get_fragments())
        schemas = list(dict.fromkeys(f.physical_schema for f in fragments))
        if len(schemas) > 1:
            schema = pa.unify_schemas(schemas, promote_options="permissive")
            dataset = ds.dataset(paths, schema=schema, format="parquet")
    return dataset, Part(
        name=name,
        rows=dataset.count_rows() if dataset is not None else 0,
        files=len(files),
        bytes=sum(path.stat().st_size for path in files),
        complete=complete,
        incomplete=len(partitions) - complete,
    )


def _requests(samples: ds.Dataset) -> int:
    column = samples.to_table(columns=["request_id"])["request_id"]
    return int(pc.count_distinct(column).as_py())


def _kind_names(schema: pa.Schema) -> list[str]:
    """A kind has its three columns; a feature may be called label_something too."""
    names = set(schema.names)
    labels = (re.fullmatch(r"label_(\w+)", name) for name in schema.names)
    kinds = [match[1] for match in labels if match]
    return [k for k in kinds if {f"delay_{k}_ms", f"mature_{k}"} <= names]


def _is_revised(samples: ds.Dataset) -> bool:
    """Whether any sample has more than one version."""
    if "revision" not in samples.schema.names:
        return False
    return bool(pc.max(samples.to_table(columns=["revision"])["revision"]).as_py())


def _kinds(samples: ds.Dataset, *, revised: bool) -> tuple[KindSummary, ...]:
    out = []
    for kind in _kind_names(samples.schema):
        label, delay, mature = f"label_{kind}", f"delay_{kind}_ms", f"mature_{kind}"
        # a kind at a time: few columns of many rows are in memory
        names = [label, delay, mature]
        if revised:
            table = latest(samples.to_table(columns=[*VERSION, *names])).select(names)
        else:
            table = samples.to_table(columns=names)
        counting = pa.types.is_int64(table.schema.field(label).type)
        absent = pc.is_null(table[delay])
        delays = table[delay].drop_null()
        median, p95 = pc.quantile(delays, q=[0.5, 0.95]).to_pylist() if len(delays) else (None,) * 2
        out.append(
            KindSummary(
                kind=kind,
                positives=len(delays),
                negatives=_true(pc.and_(absent, table[mature])),
                immature=_true(pc.and_(absent, pc.invert(table[mature]))),
                actions=int(pc.sum(table[label]).as_py() or 0) if counting else None,
                delay_median_ms=median,
                delay_p95_ms=p95,
            )
        )
    return tuple(out)


def _true(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)


def _counts(dataset: ds.Dataset, first: str, second: str) -> dict[tuple[str, str], int]:
    """Rows by two columns, the most frequent first."""
    table = dataset.to_table(columns=[first, second])
    groups = table.group_by([first, second]).aggregate([([], "count_all")]).to_pylist()
    groups.sort(key=lambda g: (-g["count_all"], g[first], g[second]))
    return {(g[first], g[second]): g["count_all"] for g in groups}


def _some_rows(samples: ds.Dataset) -> tuple[dict[str, Any], ...]:
    """The first few, and among them such with and without an action if there are."""
    kinds = _kind_names(samples.schema)
    columns = ["event_time", "request_id", "item_id", "position"]
    columns += [name for k in kinds for name in (f"label_{k}", f"delay_{k}_ms", f"mature_{k}")]
    if not kinds:
        return tuple(samples.head(SHOWN_ROWS, columns=columns).to_pylist())
    some = ds.field(f"delay_{kinds[0]}_ms").is_valid()
    for kind in kinds[1:]:
        some = some | ds.field(f"delay_{kind}_ms").is_valid()
    # one with each kind first: purchases are rare, and worth seeing
    rows: list[dict[str, Any]] = []
    filters = [
        *(ds.field(f"delay_{k}_ms").is_valid() for k in kinds[: SHOWN_ROWS - 2]),
        some,
        ~some,
    ]
    for condition in filters:
        for row in _head(samples, columns, condition, SHOWN_ROWS):
            if row not in rows:
                rows.append(row)
                break
    for row in _head(samples, columns, None, SHOWN_ROWS):
        if len(rows) < SHOWN_ROWS and row not in rows:
            rows.append(row)
    return tuple(sorted(rows[:SHOWN_ROWS], key=_row_order))


def _head(
    samples: ds.Dataset, columns: Sequence[str], condition: Any, rows: int
) -> list[dict[str, Any]]:
    table = samples.head(rows, columns=list(columns), filter=condition)
    return list(table.to_pylist())


def _row_order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (row["event_time"], row["request_id"], row["position"])
