"""Whether two runs of the trainer have learned the same, to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer import checkpoint
from trainer.serving.snapshot import Snapshot
from trainer.table.table import Rows


def compare(one: Path, other: Path, *serving: Path) -> dict[str, Any]:
    """Of two checkpoints: `samples` that were learned, `keys`, and a line for what is `differing`.

    A key differs that only one has, that one of them has more than once, or whose values, optimizer
    state or age differ in any bit. The dense parameters count as one, and so does how far the
    samples were learned. `serving`: none, or the folders of two exports, whose keys and values are
    compared, too.
    """
    first, second = _Checkpoint(one), _Checkpoint(other)
    differing: list[str] = []
    for name, table in first.tables.items():
        of_both = (table.keys, second.tables[name].keys)
        differing += (f"{name} {line}" for keys in of_both for line in _repeated(keys))
        differing += (f"{name} {key:016x}" for key in _differing(table, second.tables[name]))
    for what in ("dense", "learned"):
        if getattr(first, what) != getattr(second, what):
            differing.append(what)
    if serving:
        differing += _of_exports(*map(Snapshot.open, serving))
    keys = sum(len(table) for table in first.tables.values())
    return {"keys": keys, "differing": differing, "samples": first.learned["rows"]}


class _Checkpoint:
    """`tables`: the rows of all shards, by the table's name. `dense`: as bytes. `learned`: how far
    the samples were.
    """

    def __init__(self, folder: Path) -> None:
        manifest = checkpoint.read_manifest(folder)
        shards = checkpoint.read_shards(folder, manifest)
        self.tables = {
            table.name: _joined([shard.tables[n] for shard in shards])
            for n, table in enumerate(manifest.spec.tables)
        }
        self.dense = [array.tobytes() for shard in shards for array in shard.dense]
        learned = ("rows", "step", "newest", "cursor")
        self.learned = {name: manifest.session[name] for name in learned}


def _joined(parts: Sequence[Rows]) -> Rows:
    segments = range(len(parts[0].states))
    return Rows(
        np.concatenate([p.keys for p in parts]),
        np.concatenate([p.touched for p in parts]),
        np.concatenate([p.dirty for p in parts]),
        [np.concatenate([p.states[n] for p in parts]) for n in segments],
    )


def _repeated(keys: Any) -> Iterator[str]:
    """Two shards have a key when one kept rows that moved to the other."""
    found, counts = np.unique(keys, return_counts=True)
    for key, count in zip(found.tolist(), counts.tolist(), strict=True):
        if count > 1:
            yield f"{key:016x} is there {count} times"


def _differing(one: Rows, other: Rows) -> list[int]:
    common, here, there = np.intersect1d(one.keys, other.keys, return_indices=True)
    alone = np.setxor1d(one.keys, other.keys)
    same = (_bytes(one, here) == _bytes(other, there)).all(axis=1)
    return [*alone.tolist(), *common[~same].tolist()]


def _bytes(rows: Rows, which: Any) -> Any:
    """Of each row all that is compared, uint8 (rows, bytes)."""
    parts = [rows.touched[which][:, None], *(state[which] for state in rows.states)]
    return np.hstack([np.ascontiguousarray(part).view(np.uint8) for part in parts])


def _of_exports(one: Snapshot, other: Snapshot) -> Iterator[str]:
    for table in one.spec.tables:
        of_both = [snapshot.view.keys(table.name) for snapshot in (one, other)]
        for each in of_both:
            yield from (f"export: {table.name} {line}" for line in _repeated(each))
        keys = np.union1d(*of_both)
        (mine, is_here), (theirs, is_there) = (
            snapshot.lookup(table.name, keys) for snapshot in (one, other)
        )
        same = (mine.view(np.uint32) == theirs.view(np.uint32)).all(axis=1)
        for key in keys[~same | (is_here != is_there)].tolist():
            yield f"export: {table.name} {key:016x}"
    if one.dense.tobytes() != other.dense.tobytes():
        yield "export: dense"
