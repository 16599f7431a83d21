"""A shard: one part of all tables, as a deterministic state machine.

Messages in, answers out; no clock, no network. A replica that gets the same pushes and commands in
the same order is equal to the bit, which is how shards are replicated. (Pulls change nothing that
a push would not change as well.)

A push is identified by (worker, sequence), where each worker counts from 0. Duplicates change
nothing: deduplication marks say which pushes were taken.

With `contributions` (bulk-synchronous training) the pushes of a step are kept until all workers
have sent theirs and the first message of a later step arrives. Then they are added up in the order
of the workers, and applied as one. So a worker that is restarted in the middle of a step reads the
same values as before, whatever of its pushes had arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from trainer.server.averages import divisors
from trainer.server.dense import Dense
from trainer.server.ring import arcs_of
from trainer.spec import ModelSpec, TableSpec
from trainer.table.admission import merged
from trainer.table.optimizers import Floats
from trainer.table.table import Counts, Keys, Rows, Table


@dataclass
class TablePush:
    """Gradients (keys, width) of distinct keys of one table, or what their states have changed by,
    (keys, floats): see `Push.changes`. `counts`: samples with each key.
    """

    keys: Keys
    gradients: Floats
    counts: Counts | None


@dataclass
class Push:
    """Gradients of one batch. `step`: the global batch (BSP). `now`: the newest sample, in seconds

    of event time. `tables`: one for each table of the spec. `dense`: of the dense vector, (D,).
    `changes`: the tables have changes of states instead of gradients (`Table.change`).
    """

    worker: int
    sequence: int
    step: int
    now: int
    tables: list[TablePush]
    dense: Floats | None
    changes: bool = False


@dataclass
class Pulled:
    """For each table: values float32 (keys, width), or states (keys, floats) if these were asked
    for, and uint8 (keys,), which is 1 where the key has a row. `dense`: the dense vector, float32
    (D,), if it was asked for and is on this shard. `divisors`: of the changes of each key, if they
    were asked for, float32 (keys,), see `trainer.server.sharing`.
    """

    tables: list[tuple[Floats, npt.NDArray[np.uint8]]]
    dense: Floats | None
    divisors: list[Floats] | None = None


class OutOfStepError(Exception):
    """A message belongs to a step that is over, or that may not begin yet."""


@dataclass
class Marks:
    """The deduplication marks of one worker.

    All sequence numbers below `below` were taken, and those in `above`.
    """

    below: int = 0
    above: set[int] = field(default_factory=set)

    def has(self, sequence: int) -> bool:
        """Whether the push was taken."""
        return sequence < self.below or sequence in self.above

    def take(self, sequence: int) -> bool:
        """Mark a push as taken. Returns False if it was taken before."""
        if self.has(sequence):
            return False
        self.above.add(sequence)
        while self.below in self.above:
            self.above.remove(self.below)
            self.below += 1
        return True


@dataclass
class ShardSnapshot:
    """A copy of a whole shard: for a checkpoint, or for a replica on another server.

    `removed`: keys of rows that were removed since the last export. `sketches`: admission counters,
    uint16 (depth, width), of tables that have some. `dense`: the dense vector and its optimizer's
    state. `marks`: for each worker `below` and `above` of `Marks`. `pending`: by worker, pushes of
    a step that is not complete (BSP).
    """

    tables: list[Rows]
    removed: list[Keys]
    sketches: list[npt.NDArray[np.uint16] | None]
    dense: list[Floats]
    marks: dict[int, tuple[int, list[int]]]
    step: int
    pending: dict[int, Push]

    @property
    def rows(self) -> int:
        """The number of rows in all tables."""
        return sum(len(rows) for rows in self.tables)

    def unmarked(self) -> ShardSnapshot:
        """A copy without marks and step, for a run that counts pushes and steps from 0 again."""
        return replace(self, marks={}, step=0)


class Shard:
    """One part of all tables.

    `contributions`: how many workers' pushes make a step (BSP); None: each push is applied at once.
    `has_dense`: whether the model's dense parameters are on this shard.
    """

    def __init__(self, spec: ModelSpec, *, contributions: int | None, has_dense: bool) -> None:
        self.spec = spec
        self.tables = [Table(table, spec.seed) for table in spec.tables]
        self.marks: dict[int, Marks] = {}
        #: The current step (BSP).
        self.step = 0
        self._contributions = contributions
        self._pending: dict[int, Push] = {}
        self.dense = Dense.initial(spec) if has_dense else None

    @property
    def taken(self) -> int:
        """How many pushes were taken. Replicas with the same number have the same pushes."""
        return sum(marks.below + len(marks.above) for marks in self.marks.values())

    def has_taken(self, worker: int, sequence: int) -> bool:
        """Whether the push was taken."""
        return self.marks.get(worker, Marks()).has(sequence)

    # -- training ----------------------------------------------------------------------------------

    def push(self, push: Push) -> bool:
        """Take a push. Returns False for a duplicate. Raises OutOfStepError (BSP)."""
        self.settle(push.step)
        marks = self.marks.setdefault(push.worker, Marks())
        if marks.has(push.sequence):
            return False
        if self._contributions is not None and push.step < self.step:
            raise OutOfStepError(f"a new push for step {push.step}; this is {self.step}")
        marks.take(push.sequence)
        if self._contributions is None:
            self._apply(push)
        else:
            self._pending[push.worker] = push
        return True

    def pull(
        self, step: int, keys: Sequence[Keys], *, dense: bool = False, states: bool = False
    ) -> Pulled:
        """The values, or `states`, at the beginning of `step` (BSP), or as they are now.

        `keys`: for each table, uint64 (keys,). Raises OutOfStepError (BSP).
        """
        if self._contributions is not None and step < self.step:
            raise OutOfStepError(f"a pull for step {step}; this is {self.step}")
        self.settle(step)
        pulled = [
            table.pull_states(k) if states else table.pull(k)
            for table, k in zip(self.tables, keys, strict=True)
        ]
        vector = self.dense.values if dense and self.dense is not None else None
        return Pulled(pulled, vector)

    def settle(self, step: int) -> None:
        """BSP: a message of `step` has arrived, so all steps before it must be complete.

        Raises OutOfStepError if they are not.
        """
        if self._contributions is not None and step > self.step:
            self._finish_step(step)

    def _finish_step(self, to: int) -> None:
        if to != self.step + 1 or len(self._pending) != self._contributions:
            got = sorted(self._pending)
            raise OutOfStepError(f"step {to} begins, but of {self.step} there is only {got}")
        self._apply(_added([self._pending[w] for w in sorted(self._pending)], self.spec))
        self._pending.clear()
        self.step = to

    def _apply(self, push: Push) -> None:
        for table, part in zip(self.tables, push.tables, strict=True):
            if len(part.keys):
                take = table.change if push.changes else table.push
                take(part.keys, part.gradients, part.counts, push.now)
        if self.dense is not None and push.dense is not None:
            self.dense.update(push.dense)

    # -- commands ----------------------------------------------------------------------------------

    def expire(self, now: int) -> int:
        """Drop rows by age at `now`, in seconds of event time. Returns how many."""
        return sum(table.expire(now) for table in self.tables)

    def snapshot(self) -> ShardSnapshot:
        """A copy of the whole shard."""
        return ShardSnapshot(
            tables=[table.all_rows() for table in self.tables],
            removed=[table.removed.copy() for table in self.tables],
            sketches=[None if t.sketch is None else t.sketch.copy() for t in self.tables],
            dense=[] if self.dense is None else self.dense.arrays(),
            marks=self._marks_apart(),
            step=self.step,
            pending=dict(self._pending),
        )

    def load(self, snapshot: ShardSnapshot) -> None:
        """Take over everything from a snapshot. Only for a new shard."""
        for table, rows, removed, sketch in zip(
            self.tables, snapshot.tables, snapshot.removed, snapshot.sketches, strict=True
        ):
            table.absorb(rows)
            table.removed = removed
            if sketch is not None:
                table.sketch = sketch.copy()
        if self.dense is not None and snapshot.dense:
            self.dense = Dense.of(self.spec, snapshot.dense)
        self._take_over(snapshot)
        self._pending = dict(snapshot.pending)

    def take_out(self, arcs: npt.NDArray[np.bool_]) -> ShardSnapshot:
        """Remove the rows of some arcs, and return them. `arcs`: a mask, bool (ARCS,)."""
        rows, removed = [], []
        for table in self.tables:
            rows.append(table.take_out(arcs[arcs_of(table.keys())]))
            going = arcs[arcs_of(table.removed)]
            removed.append(table.removed[going])
            table.removed = table.removed[~going]
        return ShardSnapshot(
            tables=rows,
            removed=removed,
            sketches=[None if t.sketch is None else t.sketch.copy() for t in self.tables],
            dense=[],
            marks=self._marks_apart(),
            step=self.step,
            pending={},
        )

    def take_in(self, snapshot: ShardSnapshot) -> None:
        """Add what another shard took out. Raises ValueError for a row that is here already.

        Only between batches, when all shards have the same marks.
        """
        for table, rows, removed, sketch in zip(
            self.tables, snapshot.tables, snapshot.removed, snapshot.sketches, strict=True
        ):
            table.absorb(rows)
            table.removed = np.concatenate([table.removed, removed])
            if table.sketch is not None and sketch is not None:
                table.sketch = merged(table.sketch, sketch)
        self._take_over(snapshot)

    def _marks_apart(self) -> dict[int, tuple[int, list[int]]]:
        return {w: (m.below, sorted(m.above)) for w, m in self.marks.items()}

    def _take_over(self, snapshot: ShardSnapshot) -> None:
        """Take the marks and the step from the snapshot."""
        self.marks = {w: Marks(below, set(above)) for w, (below, above) in snapshot.marks.items()}
        self.step = snapshot.step


def _added(pushes: Sequence[Push], spec: ModelSpec) -> Push:
    """The pushes of one step as one: gradients and counts are summed in the order given.

    Changes of states are not summed but averaged, see `trainer.server.averages`.
    """
    first = pushes[0]
    if len(pushes) == 1:
        return first
    tables = [
        _added_tables([p.tables[t] for p in pushes], table if first.changes else None)
        for t, table in enumerate(spec.tables)
    ]
    dense = None
    if first.dense is not None:
        dense = first.dense.copy()
        for push in pushes[1:]:
            assert push.dense is not None
            dense += push.dense
    now = max(p.now for p in pushes)
    marks = first.worker, first.sequence, first.step, now
    return Push(*marks, tables, dense, first.changes)


def _added_tables(parts: Sequence[TablePush], averaged: TableSpec | None) -> TablePush:
    """`averaged`: the parts are changes of the states of this table; None: gradients."""
    keys, places = np.unique(np.concatenate([p.keys for p in parts]), return_inverse=True)
    shape = len(keys), parts[0].gradients.shape[1]
    sums = np.zeros(shape, np.float32)
    changes, squares = (np.zeros(shape if averaged else 0) for _ in range(2))
    counts = None if parts[0].counts is None else np.zeros(len(keys), np.uint32)
    start = 0
    for part in parts:
        at = places[start : start + len(part.keys)]
        # the keys of one push are distinct, so nothing is added twice to one place
        if averaged is None:
            sums[at] += part.gradients
        else:
            # in float64: the square of a square of a gradient may not be finite in float32
            changes[at] += part.gradients
            squares[at] += np.square(part.gradients, dtype=np.float64)
        if counts is not None and part.counts is not None:
            counts[at] += part.counts
        start += len(part.keys)
    if averaged is not None:
        sums = (changes / divisors(averaged, changes, squares)).astype(np.float32)
    return TablePush(keys, sums, counts)
