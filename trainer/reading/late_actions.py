"""The rows that a file of late actions adds: corrections of samples that were read before.

A late action changes a label of a sample that the ledger has already (docs/corrections.md). What an
entry adds depends only on the entries before it, so it is the same in every run over a ledger. A
sample that enters the ledger after its late actions is not corrected by them. The join commits the
sample first, or both at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from configuration.stores import Folder
from corrections.anew import NegativeRate
from corrections.apply import corrections
from corrections.late_actions import Fate
from corrections.versions import latest
from schemas.actions import ActionKind
from schemas.samples import LATE_ACTIONS
from trainer.reading.columns import absent, conformed
from trainer.reading.files import check_columns, open_parquet
from trainer.reading.ledger import Entry

_NAME = ("user_id", "request_id", "event_time", "position")


@dataclass
class CorrectionRows:
    """What one late file adds.

    `rows`: with the columns of the samples and kind "correction", one for each sample of which this
    file changes a label or a delay. `changed`, (rows, kinds): where the action had not happened by
    everything known before this file, and has happened now. `fates`: late actions by (kind, fate).
    Their sum over files equals that of `corrections.apply` for all of them. A number is negative if
    this file changes the fate of an action of an earlier file.
    """

    rows: pa.Table
    changed: npt.NDArray[np.bool_]
    fates: Counter[tuple[str, Fate]]


def correction_rows(
    root: Folder,
    before: Sequence[Entry],
    entry: Entry,
    layout: pa.Schema,
    kinds: Sequence[ActionKind],
    *,
    exposure: str | None = None,
    anew: bool = True,
    negative_rate: NegativeRate | None = None,
) -> CorrectionRows:
    """The corrections of the late file `entry`, where `before` are the entries before it.

    `layout`: columns of the samples (`schemas.samples.samples`). `exposure`, `anew` and
    `negative_rate` as for `corrections.apply.corrections`. Raises ReadError for a file that
    cannot be read, ValueError as `corrections` does.
    """
    here = [e for e in before if e.partition == entry.partition]
    new = _rows(root, entry, LATE_ACTIONS)
    named = pc.unique(new["sample_id"])
    earlier = _named(root, [e for e in here if e.stream == "late_actions"], LATE_ACTIONS, named)
    samples = latest(_named(root, [e for e in here if e.stream == "samples"], layout, named))

    def correct(late: pa.Table) -> Any:
        return corrections(
            samples, late, kinds, exposure=exposure, anew=anew, negative_rate=negative_rate
        )

    told, made = correct(earlier), correct(pa.concat_tables([earlier, new]))
    fates = made.fates
    fates.subtract(told.fates)
    known = _labels(samples, kinds) | _labels(told.rows, kinds)
    kept: list[int] = []
    changed: list[list[bool]] = []
    for n, (name, labels) in enumerate(_labels(made.rows, kinds).items()):
        last = known.get(name)
        if labels == last:
            continue
        kept.append(n)
        acted = [delay is not None for _, delay in labels]
        had = [False] * len(kinds) if last is None else [delay is not None for _, delay in last]
        changed.append([now and not then for now, then in zip(acted, had, strict=True)])
    return CorrectionRows(
        made.rows.take(pa.array(kept, pa.int64())),
        np.array(changed, bool).reshape(len(kept), len(kinds)),
        Counter({fate: count for fate, count in fates.items() if count}),
    )


def _labels(samples: pa.Table, kinds: Sequence[ActionKind]) -> dict[tuple[Any, ...], list[Any]]:
    """By sample, label and delay of each kind."""
    names = zip(*(samples[column].to_pylist() for column in _NAME), strict=True)
    labels = [
        zip(
            samples[f"label_{kind.name}"].to_pylist(),
            samples[f"delay_{kind.name}_ms"].to_pylist(),
            strict=True,
        )
        for kind in kinds
    ]
    return dict(zip(names, map(list, zip(*labels, strict=True)), strict=True))


def _rows(root: Folder, entry: Entry, layout: pa.Schema) -> pa.Table:
    with open_parquet(root / entry.path, entry.path, entry.size) as file:
        check_columns(file.schema_arrow, layout, entry.path)
        return file.read(layout.names, use_threads=False).cast(layout)


def _as_declared(table: pa.Table, layout: pa.Schema) -> pa.Table:
    """The table with the present columns, whatever columns the file has."""
    columns = conformed(table, layout, layout.names).columns
    # a null column is of dictionaries, which the others are not
    return pa.table([c.cast(f.type) for c, f in zip(columns, layout, strict=True)], schema=layout)


def _named(root: Folder, entries: Sequence[Entry], layout: pa.Schema, ids: pa.Array) -> pa.Table:
    """Rows with one of these ids, few of many: other columns are read only where some are."""
    pieces = [layout.empty_table()]
    for entry in entries:
        with open_parquet(root / entry.path, entry.path, entry.size) as file:
            if entry.stream == "samples":
                lacking = absent(file.schema_arrow, layout, entry.path)
            else:
                check_columns(file.schema_arrow, layout, entry.path)
                lacking = ()
            there = [name for name in layout.names if name not in lacking]
            for group in range(len(entry.row_groups)):
                column = file.read_row_group(group, ["sample_id"], use_threads=False)["sample_id"]
                wanted = pc.is_in(column, value_set=ids)
                if pc.any(wanted).as_py():
                    rows = file.read_row_group(group, there, use_threads=False)
                    pieces.append(_as_declared(rows.filter(wanted), layout))
    return pa.concat_tables(pieces)
