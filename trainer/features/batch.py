"""A mini-batch as the model sees it: distinct keys, and where in which row they occur."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]


@dataclass
class Occurrences:
    """The keys of one table in a batch.

    `keys`: distinct, (keys,). `counts`: in how many samples each occurs, uint32 (keys,). For every
    occurrence, slot by slot in the order of the spec: `index` into `keys`, `row` of the batch and
    `value`, (occurrences,) each. Slot number s of `slots` (indices into `ModelSpec.slots`) has the
    occurrences `starts[s]` up to `starts[s + 1]`.
    """

    keys: Keys
    counts: npt.NDArray[np.uint32]
    index: Ints
    row: Ints
    value: Floats
    slots: tuple[int, ...]
    starts: npt.NDArray[np.int64]

    def by_slot(self) -> Iterator[tuple[int, Ints, Ints, Floats]]:
        """Of each slot its number in the spec, and `index`, `row` and `value`."""
        for n, slot in enumerate(self.slots):
            at = slice(int(self.starts[n]), int(self.starts[n + 1]))
            yield slot, self.index[at], self.row[at], self.value[at]


@dataclass
class Targets:
    """What the rows say, per action; shapes (rows, actions).

    `labels`: 1 where the action happened. `weights`: how much the row counts for the action
    (importance of sampling); 0: it says nothing of it (its window had not closed, it is not the row
    that the loss takes). `delayed` and `delayed_weights` likewise for the head that learns the
    probability of a delayed positive; empty (rows, 0) where the loss has none.
    """

    labels: Floats
    weights: Floats
    delayed: Floats
    delayed_weights: Floats


@dataclass
class Clipped:
    """Numbers of a slot that were beyond its bound: how many, and the one furthest from 0."""

    slot: str
    values: int
    largest: float


@dataclass
class Batch:
    """`rows` samples. `times`: event times, epoch ms, (rows,). One `Occurrences` per table.

    `slices`: for each column that the evaluation slices by, a small integer per row,
    (rows, columns). `clipped`: of the slots that had values to clip.
    """

    rows: int
    tables: list[Occurrences]
    targets: Targets
    times: npt.NDArray[np.int64]
    slices: npt.NDArray[np.int32]
    clipped: list[Clipped] = field(default_factory=list)
