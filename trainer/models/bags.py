"""The sparse layer: for each sample, sums over the rows of its keys.

The layer is linear. Its backward pass is the transpose: `spread` (scatter-add) is the transpose of
`linear` and `pooled`. Everything that is not linear is in `trainer.models.network`, in JAX.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from trainer.features.batch import Batch, ByRow, Counts, Floats, Occurrences
from trainer.models.network import embedded_slots
from trainer.spec import ModelSpec


@njit(cache=True, nogil=True)
def _linear(values, index, row, x, out):
    heads = out.shape[1]
    for i in range(len(index)):
        r, k, v = row[i], index[i], x[i]
        for h in range(heads):
            out[r, h] += v * values[k, h]


@njit(cache=True, nogil=True)
def _pooled(values, first, index, row, x, out, slot):
    width = out.shape[2]
    for i in range(len(index)):
        r, k, v = row[i], index[i], x[i]
        for j in range(width):
            out[r, slot, j] += v * values[k, first + j]


@njit(cache=True, nogil=True)
def _spread_linear(upstream, index, row, x, out):
    heads = upstream.shape[1]
    for i in range(len(index)):
        r, k, v = row[i], index[i], x[i]
        for h in range(heads):
            out[k, h] += v * upstream[r, h]


@njit(cache=True, nogil=True)
def _spread_pooled(upstream, slot, index, row, x, out, first):
    width = upstream.shape[2]
    for i in range(len(index)):
        r, k, v = row[i], index[i], x[i]
        for j in range(width):
            out[k, first + j] += v * upstream[r, slot, j]


def add_linear(values: Floats, bag: Occurrences, out: Floats) -> None:
    """out[row, h] += value * values[key, h] for all occurrences; `out`: (rows, heads)."""
    _linear(values, bag.index, bag.row, bag.value, out)


def add_pooled(
    values: Floats, bag: Occurrences, heads: int, out: Floats, place: dict[int, int]
) -> None:
    """Sum the embeddings, the columns of `values` after the first `heads`, by row and slot.

    `out`: (rows, slots, embedding). `place`: the number in `out` of each slot of the spec.
    """
    for slot, *occurrences in bag.by_slot():
        _pooled(values, heads, *occurrences, out, place[slot])


def sums(
    spec: ModelSpec, batch: Batch, values: Sequence[Floats], rows: int
) -> tuple[Floats, Floats]:
    """What the network takes: linear and pooled sums, from the values of each table's keys.

    `rows`: at least the batch's; further rows are zeros.
    """
    heads, place = len(spec.heads), embedded_slots(spec)
    linear = np.zeros((rows, heads), np.float32)
    pooled = np.zeros((rows, len(place), spec.embedding), np.float32)
    for bag, of_table in zip(batch.tables, values, strict=True):
        add_linear(of_table, bag, linear)
        if of_table.shape[1] > heads:
            add_pooled(of_table, bag, heads, pooled, place)
    return linear, pooled


def spread(
    bag: Occurrences,
    width: int,
    linear: Floats,
    pooled: Floats,
    place: dict[int, int],
) -> Floats:
    """The gradient of each key, (keys, width), summed over the batch.

    `linear`, `pooled`: the gradients with respect to the results of `add_linear` and `add_pooled`.
    """
    out = np.zeros((len(bag.keys), width), np.float32)
    heads = linear.shape[1]
    _spread_linear(linear, bag.index, bag.row, bag.value, out)
    if width > heads:
        for slot, *occurrences in bag.by_slot():
            _spread_pooled(pooled, place[slot], *occurrences, out, heads)
    return out


@njit(cache=True, nogil=True)
def mark(index, row, known, present, unseen, slot):
    """Mark per row whether the slot has a key, and whether it has one that has no row yet."""
    for i in range(len(index)):
        present[row[i], slot] = 1
        if known[index[i]] == 0:
            unseen[row[i], slot] = 1


def mark_rows(
    rows: ByRow,
    known: npt.NDArray[np.uint8],
    which: npt.NDArray[np.bool_],
    present: npt.NDArray[np.uint8],
    unseen: npt.NDArray[np.uint8],
) -> None:
    """As `mark`, for all slots of `present`, (rows, slots), in the rows of the mask `which`.

    `known`: of all tables, (keys,).
    """
    _mark_rows(rows.starts, rows.ends, rows.key, rows.slot, known, which, present, unseen)


@njit(cache=True, nogil=True)
def _mark_rows(starts, ends, key, slot, known, which, present, unseen):
    slots = present.shape[1]
    for r in range(len(ends)):
        if not which[r]:
            continue
        for o in range(starts[r], ends[r]):
            n = np.uint32(slot[o])
            if n < slots:
                present[r, n] = 1
                unseen[r, n] |= known[np.uint32(key[o])] == 0


@njit(cache=True, nogil=True)
def _count(starts, ends, key, counted, out):
    for r in range(len(ends)):
        if counted[r]:
            for o in range(starts[r], ends[r]):
                out[key[o]] += 1


def samples(batch: Batch) -> list[Counts]:
    """For each table in how many samples with any weight each key is, uint32 (keys,).

    Of a batch with `by_row`.
    """
    of, rows = batch.targets, batch.by_row
    assert rows is not None
    counted = (of.weights != 0).any(1) | (of.delayed_weights != 0).any(1)
    sizes = [len(bag.keys) for bag in batch.tables]
    found = np.zeros(sum(sizes), np.uint32)
    _count(rows.starts, rows.ends, rows.key, counted, found)
    return np.split(found, np.cumsum(sizes)[:-1])
