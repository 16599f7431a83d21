"""How parameters are distributed to another number of shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.server.ring import Owners, arcs_of
from trainer.server.shard import ShardSnapshot
from trainer.table import admission
from trainer.table.table import Rows


def resharded(
    shards: Sequence[ShardSnapshot], owners: Owners, numbers: Sequence[int]
) -> dict[int, ShardSnapshot]:
    """Snapshots for the shards `numbers`: each row goes to the shard that owns its arc.

    `shards` are of one moment between two batches. So the deduplication marks of all of them are
    the same, and no step is half done. Admission counters cannot be split by key, so each new shard
    gets the merged counters of all.
    """
    first = shards[0]
    tables: list[Rows] = []
    for t in range(len(first.tables)):
        of_all = [snapshot.tables[t] for snapshot in shards]
        states = [
            np.concatenate([rows.states[s] for rows in of_all])
            for s in range(len(of_all[0].states))
        ]
        tables.append(
            Rows(
                np.concatenate([rows.keys for rows in of_all]),
                np.concatenate([rows.touched for rows in of_all]),
                np.concatenate([rows.dirty for rows in of_all]),
                states,
            )
        )
    sketches = [
        _all_merged([snapshot.sketches[t] for snapshot in shards]) for t in range(len(first.tables))
    ]
    removed = [
        np.concatenate([snapshot.removed[t] for snapshot in shards])
        for t in range(len(first.tables))
    ]
    dense = next((snapshot.dense for snapshot in shards if snapshot.dense), [])
    out = {}
    for number in numbers:
        mine = [rows.take(owners[arcs_of(rows.keys)] == number) for rows in tables]
        gone = [keys[owners[arcs_of(keys)] == number] for keys in removed]
        copies = [None if s is None else s.copy() for s in sketches]
        marks = {w: (below, list(above)) for w, (below, above) in first.marks.items()}
        has_dense = dense if number == min(numbers) else []
        out[number] = ShardSnapshot(mine, gone, copies, has_dense, marks, first.step, {})
    return out


def _all_merged(sketches: Sequence[Any]) -> Any:
    if sketches[0] is None:
        return None
    merged = sketches[0]
    for sketch in sketches[1:]:
        merged = admission.merged(merged, sketch)
    return merged
