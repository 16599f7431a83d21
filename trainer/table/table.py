"""A table of parameters: a hash table with linear probing, stored as a struct of arrays.

The arrays are: keys; when each row was last touched; whether it has changed since the last export;
and one array per segment, whose rows hold the values and what the optimizer keeps beside them.
`find` finds rows, `push` makes them, and only `expire` and `take_out` remove them.

Capacities are not powers of two. So a table of more than 2^16 rows grows by a quarter, and its load
stays between 0.64 and 0.8.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, uint64

from trainer.spec import TableSpec
from trainer.table import admission
from trainer.table.hashing import home
from trainer.table.optimizers import Floats, Positions, kernel

Keys = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]

#: Marks a free place. `features.keys` never makes this key: it makes 1 of it.
FREE = 0
MAX_LOAD = 0.8
_SMALL, _GROWTH = 1 << 16, 1.25
_NOTHING: tuple[Keys, Positions] = np.empty(0, np.uint64), np.empty(0, np.int64)


@njit(cache=True, nogil=True)
def find(places, keys, out):
    """The place of each key, or -1."""
    capacity = len(places)
    free = uint64(FREE)
    for i in range(len(keys)):
        key = keys[i]
        at: Any = np.int64(home(key, capacity))
        while True:
            there = places[at]
            if there == key:
                out[i] = at
                break
            if there == free:
                out[i] = -1
                break
            at += 1
            if at == capacity:
                at = 0


@njit(cache=True, nogil=True)
def insert(places, keys, out):
    """Choose a place for each key. No key may be there yet, and there must be room."""
    capacity = len(places)
    free = uint64(FREE)
    for i in range(len(keys)):
        at: Any = np.int64(home(keys[i], capacity))
        while places[at] != free:
            at += 1
            if at == capacity:
                at = 0
        places[at] = keys[i]
        out[i] = at


@njit(cache=True, nogil=True)
def _touch(positions, touched, dirty, now):
    for i in range(len(positions)):
        p = positions[i]
        if p >= 0:
            # a batch may be older than one before it (a slow worker, a correction)
            touched[p] = max(touched[p], now)
            dirty[p] = 1


@njit(cache=True, nogil=True)
def _read_state(state, positions, out, first):
    for i in range(len(positions)):
        p = positions[i]
        if p >= 0:
            for j in range(state.shape[1]):
                out[i, first + j] = state[p, j]


@njit(cache=True, nogil=True)
def _add_change(state, positions, changes, first):
    for i in range(len(positions)):
        p = positions[i]
        if p < 0:
            continue
        finite = True
        for j in range(state.shape[1]):
            finite &= np.isfinite(state[p, j] + changes[i, first + j])
        # a value and its n belong together: both are changed, or none
        if finite:
            for j in range(state.shape[1]):
                state[p, j] += changes[i, first + j]


@njit(cache=True, nogil=True)
def _copy(source, origin, target, places):
    for i in range(len(origin)):
        for j in range(source.shape[1]):
            target[places[i], j] = source[origin[i], j]


@dataclass
class Rows:
    """Rows outside of a table: moved to another shard, in a checkpoint, or compared in a test.

    `keys`, `touched` (seconds of event time), `dirty`: (rows,). `states`: one array (rows, floats)
    per segment.
    """

    keys: Keys
    touched: npt.NDArray[np.uint32]
    dirty: npt.NDArray[np.uint8]
    states: list[Floats]

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, which: npt.NDArray[np.int64] | Mask) -> Rows:
        """The rows at these indexes, int64 (n,), or where a mask, bool (N,), is true."""
        states = [state[which] for state in self.states]
        return Rows(self.keys[which], self.touched[which], self.dirty[which], states)

    def sorted(self) -> Rows:
        """The rows ordered by key, so the result does not depend on the order of insertion."""
        return self.take(np.argsort(self.keys))


class Table:
    """The rows of one table on one shard. Not for several threads at once."""

    def __init__(self, spec: TableSpec, seed: int, *, capacity: int = 1024) -> None:
        self.spec = spec
        self.rows = 0
        #: Keys of rows that were removed since the last export.
        self.removed: Keys = np.empty(0, np.uint64)
        self.sketch = admission.empty() if spec.admit_after > 1 else None
        self._first = _starts([segment.width for segment in spec.segments])
        self._first_of_state = _starts([segment.floats for segment in spec.segments])
        self._kernels = [
            kernel(s, c, seed) for s, c in zip(spec.segments, self._first, strict=True)
        ]
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        self._places: Keys = np.zeros(capacity, np.uint64)
        self._touched = np.zeros(capacity, np.uint32)
        self._dirty = np.zeros(capacity, np.uint8)
        self._states = [np.zeros((capacity, k.floats), np.float32) for k in self._kernels]
        #: The keys of the last pull and their places; only valid while no row has moved.
        self._found: tuple[Keys, Positions] = _NOTHING

    @property
    def capacity(self) -> int:
        """Places of the hash table, of which some are free."""
        return len(self._places)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays at the present capacity."""
        sketch = 0 if self.sketch is None else self.sketch.nbytes
        arrays: list[Any] = [self._places, self._touched, self._dirty, *self._states]
        return int(sum(array.nbytes for array in arrays)) + sketch

    def pull(self, keys: Keys) -> tuple[Floats, npt.NDArray[np.uint8]]:
        """Values (keys, width), and which keys have a row, uint8 (keys,). Changes nothing.

        A key without a row gets the values that its row would start with, if its first push makes
        one. It gets zeros if it has to be seen more often first.
        """
        positions = self._find(keys)
        # usually a push of the same keys comes next, and need not look for them again
        self._found = keys, positions
        out = self._values(positions)
        known = positions >= 0
        if self.spec.admit_after <= 1 and not known.all():
            self._read_start(keys, np.flatnonzero(~known), out)
        return out, known.view(np.uint8)

    def pull_states(self, keys: Keys) -> tuple[Floats, npt.NDArray[np.uint8]]:
        """As `pull`, with the whole state of each row instead of its values: (keys, floats).

        The states of the segments lie one after the other.
        """
        positions = self._find(keys)
        self._found = keys, positions
        out = np.zeros((len(keys), self.spec.floats), np.float32)
        for state, first in zip(self._states, self._first_of_state, strict=True):
            _read_state(state, positions, out, first)
        known = positions >= 0
        if self.spec.admit_after <= 1 and not known.all():
            missing = np.flatnonzero(~known)
            out[missing] = np.concatenate(self._start_states(keys[missing]), axis=1)
        return out, known.view(np.uint8)

    def _values(self, positions: Positions) -> Floats:
        """The values at these positions, (positions, width); zeros where there is no row."""
        out = np.zeros((len(positions), self.spec.width), np.float32)
        for k, state, first in zip(self._kernels, self._states, self._first, strict=True):
            k.read(state, positions, out, first)
        return out

    def _read_start(self, keys: Keys, missing: Positions, out: Floats) -> None:
        if all(segment.scale == 0 for segment in self.spec.segments):
            return
        rows = np.arange(len(missing))
        started = np.zeros((len(missing), self.spec.width), np.float32)
        states = self._start_states(keys[missing])
        for k, state, first in zip(self._kernels, states, self._first, strict=True):
            k.read(state, rows, started, first)
        out[missing] = started

    def _start_states(self, keys: Keys) -> list[Floats]:
        """The states that rows of these keys would start with, of each segment."""
        states = [np.zeros((len(keys), k.floats), np.float32) for k in self._kernels]
        for k, state in zip(self._kernels, states, strict=True):
            k.start(state, np.arange(len(keys)), keys)
        return states

    def push(self, keys: Keys, gradients: Floats, counts: Counts | None, now: int) -> None:
        """Do one step of each segment's optimizer for each key. The keys must be distinct.

        `gradients`: (keys, width), summed over the batch. `counts`: in how many samples each key
        was; needed where `admit_after` is more than 1. `now`: seconds of event time. A key that
        this push admits gets its row but no step, because its gradient was computed with the zeros
        that were pulled for it.
        """
        positions = self._pushed(keys, counts, now)
        for k, state, first in zip(self._kernels, self._states, self._first, strict=True):
            k.update(state, positions, gradients, first)

    def change(self, keys: Keys, changes: Floats, counts: Counts | None, now: int) -> None:
        """Add what a worker's own steps have changed of the states that `pull_states` gave.

        `changes`: (keys, floats). A segment of a row that would not be finite afterwards stays as
        it is. All else is as in `push`.
        """
        positions = self._pushed(keys, counts, now)
        for state, first in zip(self._states, self._first_of_state, strict=True):
            _add_change(state, positions, changes, first)

    def _pushed(self, keys: Keys, counts: Counts | None, now: int) -> Positions:
        """The rows of pushed keys, new ones included, touched; -1: the key makes no step."""
        positions = self._found[1] if self._found[0] is keys else self._find(keys)
        self._found = _NOTHING
        missing = np.flatnonzero(positions < 0)
        if len(missing):
            if self.sketch is None:
                positions = self._add(keys, positions, missing)
            else:
                assert counts is not None
                seen = admission.count(self.sketch, keys[missing], counts[missing])
                admitted = missing[seen >= self.spec.admit_after]
                positions = self._add(keys, positions, admitted)
                _touch(positions[admitted], self._touched, self._dirty, np.uint32(now))
                positions[admitted] = -1
        _touch(positions, self._touched, self._dirty, np.uint32(now))
        return positions

    def _find(self, keys: Keys) -> Positions:
        positions = np.empty(len(keys), np.int64)
        find(self._places, keys, positions)
        return positions

    def _add(self, keys: Keys, positions: Positions, which: Positions) -> Positions:
        """Make rows for the keys at `which`, which have none.

        Returns the positions of all keys, because rows may have moved.
        """
        if self._reserve(len(which)):
            positions = self._find(keys)
        added = np.empty(len(which), np.int64)
        new = keys[which]
        insert(self._places, new, added)
        for k, state in zip(self._kernels, self._states, strict=True):
            k.start(state, added, new)
        self.rows += len(which)
        self._found = _NOTHING
        positions[which] = added
        return positions

    def _reserve(self, more: int) -> bool:
        """Make room for so many more rows. Returns whether rows have moved."""
        needed = self.rows + more
        if needed <= MAX_LOAD * self.capacity:
            return False
        factor = 2.0 if self.capacity < _SMALL else _GROWTH
        self._rebuild(max(int(self.capacity * factor), int(needed / MAX_LOAD) + 1))
        return True

    def _rebuild(self, capacity: int, keep: Positions | None = None) -> None:
        """Put all rows, or those at the positions `keep`, into arrays of another capacity.

        Old places are in the order of the hash, and so are the new ones. So both are walked once,
        from one end to the other.
        """
        origin = np.flatnonzero(self._places) if keep is None else keep
        places, touched, dirty, states = self._places, self._touched, self._dirty, self._states
        self._allocate(capacity)
        at = np.empty(len(origin), np.int64)
        insert(self._places, places[origin], at)
        self._touched[at] = touched[origin]
        self._dirty[at] = dirty[origin]
        for old, new in zip(states, self._states, strict=True):
            _copy(old, origin, new, at)
        self.rows = len(origin)

    # -- leaving -----------------------------------------------------------------------------------

    def expire(self, now: int) -> int:
        """Drop rows that no sample touched for `expire_after_s` before `now`.

        Returns how many rows were dropped.
        """
        limit = self.spec.expire_after_s
        if limit is None or now <= limit:
            return 0
        used = np.flatnonzero(self._places)
        old = self._touched[used] < now - limit
        gone: int = int(old.sum())
        if gone:
            self.removed = np.concatenate([self.removed, self._places[used[old]]])
            self._shrink(used[~old])
        return gone

    def _shrink(self, keep: Positions) -> None:
        # the capacity to which it would have grown for these rows
        self._rebuild(max(1024, int(len(keep) / (MAX_LOAD / _GROWTH))), keep)

    def take_out(self, moved: Mask) -> Rows:
        """Remove the rows that the mask selects, in the order of `all_rows`, and return them."""
        used = np.flatnonzero(self._places)
        rows = self._rows(used[moved])
        self._shrink(used[~moved])
        return rows

    # -- whole tables ------------------------------------------------------------------------------

    def keys(self) -> Keys:
        """The keys of all rows, in the order of `all_rows`."""
        return self._places[np.flatnonzero(self._places)]

    def all_rows(self) -> Rows:
        """A copy of all rows."""
        return self._rows(np.flatnonzero(self._places))

    def _rows(self, at: Positions) -> Rows:
        states = [state[at] for state in self._states]
        return Rows(self._places[at], self._touched[at], self._dirty[at], states)

    def absorb(self, rows: Rows) -> None:
        """Add rows as they are. Raises ValueError for a key that has a row already."""
        if (self._find(rows.keys) >= 0).any():
            raise ValueError("a row that is to come in is here already")
        self._reserve(len(rows))
        at = np.empty(len(rows), np.int64)
        insert(self._places, rows.keys, at)
        self._touched[at], self._dirty[at] = rows.touched, rows.dirty
        for state, more in zip(self._states, rows.states, strict=True):
            state[at] = more
        self.rows += len(rows)
        self._found = _NOTHING

    def changed(self, *, everything: bool) -> tuple[Keys, Floats, Keys]:
        """For an export: keys and values of the rows that changed since the last one (or of all
        rows), and the keys of rows that were removed. Changes are counted anew from here on.
        """
        used = np.flatnonzero(self._places)
        at = used if everything else used[self._dirty[used] == 1]
        keys, values = self._places[at], self._values(at)
        self._dirty[used] = 0
        removed, self.removed = np.unique(self.removed), np.empty(0, np.uint64)
        if everything:
            return keys, values, removed[:0]
        # a key that came back meanwhile is among the changed ones
        return keys, values, removed[self._find(removed) < 0]


def _starts(widths: Sequence[int]) -> list[int]:
    """The first column of each part of a row."""
    return [sum(widths[:n]) for n in range(len(widths))]
