"""A mini-batch as the model sees it: distinct keys, and where in which row they occur."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.uint32]


@dataclass
class Distinct:
    """The keys of one table in a batch.

    `keys`: distinct, uint64 (keys,). `counts`: in how many samples each key occurs, uint32 (keys,).
    """

    keys: Keys
    counts: Counts


@dataclass
class Occurrences(Distinct):
    """The keys of one table in a batch, and where they occur.

    For every occurrence, slot by slot in the order of the spec: `index` into `keys`, `row` of the
    batch, and `value`; each has the shape (occurrences,).

    `slots` are indices into `ModelSpec.slots`. The occurrences of the n-th of them are those from
    `starts[n]` up to `starts[n + 1]`.
    """

    index: Ints
    row: Ints
    value: Floats
    slots: tuple[int, ...]
    starts: npt.NDArray[np.int64]

    def by_slot(self) -> Iterator[tuple[int, Ints, Ints, Floats]]:
        """Per slot: its number in the spec, and `index`, `row`, `value` of its occurrences."""
        for n, slot in enumerate(self.slots):
            at = slice(int(self.starts[n]), int(self.starts[n + 1]))
            yield slot, self.index[at], self.row[at], self.value[at]


@dataclass
class ByRow:
    """The occurrences of all tables, row by row: those of row n are from `starts[n]` up to
    `ends[n]`, slot by slot in the order of the tables.

    `starts`, `ends`: int64 (rows,). For every occurrence: `key`, the number of its key, where keys
    are numbered table after table; its `value`, float64; and its `slot`, an index into
    `ModelSpec.slots`. A key that a row has twice is there once, with the sum of its values, because
    its gradient is that of the sum. What is between the end of a row and the next start is not set.
    """

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    key: Ints
    value: npt.NDArray[np.float64]
    slot: Ints


@dataclass
class Targets:
    """What the rows say about each action. All shapes are (rows, actions).

    `labels`: 1 where the action happened. `weights`: how much the row counts for the action
    (importance of sampling). A weight of 0 means that the row says nothing about the action: its
    window had not closed, or the loss does not take this row.

    `delayed` and `delayed_weights` are the same for the head that learns the probability of a
    delayed positive. They are empty, (rows, 0), where the loss has no such head.
    """

    labels: Floats
    weights: Floats
    delayed: Floats
    delayed_weights: Floats


@dataclass
class Clipped:
    """How many numbers of a slot were beyond its bound, and the one furthest from 0."""

    slot: str
    values: int
    largest: float


@dataclass
class Batch:
    """`rows` samples.

    `times`: event times, epoch ms, (rows,). There is one `Occurrences` per table. `slices`: for
    each column that the evaluation slices by, a small integer per row, (rows, columns). `clipped`:
    of the slots that had values to clip. `by_row`: the occurrences in another order, if the batch
    was made for that; its `tables` are only `Distinct` then.
    """

    rows: int
    tables: list[Occurrences]
    targets: Targets
    times: npt.NDArray[np.int64]
    slices: npt.NDArray[np.int32]
    clipped: list[Clipped] = field(default_factory=list)
    by_row: ByRow | None = None
