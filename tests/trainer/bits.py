"""Shards and pushes as values that are equal where all their bits are."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer.server.shard import Push, ShardSnapshot
from trainer.table.table import Rows


def of_rows(rows: Rows) -> list[bytes]:
    arrays: list[Any] = [rows.keys, rows.touched, rows.dirty, *rows.states]
    return [array.tobytes() for array in arrays]


def of_push(push: Push) -> Any:
    tables = [
        (t.keys.tobytes(), t.gradients.tobytes(), None if t.counts is None else t.counts.tobytes())
        for t in push.tables
    ]
    dense = None if push.dense is None else push.dense.tobytes()
    return push.worker, push.sequence, push.step, push.now, tables, dense


def of_snapshot(snapshot: ShardSnapshot) -> Any:
    """Everything, but for the order in which rows came to be."""
    return {
        "rows": [of_rows(rows.sorted()) for rows in snapshot.tables],
        "removed": [np.sort(keys).tobytes() for keys in snapshot.removed],
        "sketches": [None if s is None else s.tobytes() for s in snapshot.sketches],
        "dense": [array.tobytes() for array in snapshot.dense],
        "marks": {w: (below, list(above)) for w, (below, above) in snapshot.marks.items()},
        "step": snapshot.step,
        "pending": {worker: of_push(push) for worker, push in snapshot.pending.items()},
    }
