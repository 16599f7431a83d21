"""Values by key: a table of an export in memory, and what a later export changes in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numba
import numpy as np

from trainer.serving.format import Flags, Floats, Indices, Keys

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass
class Change:
    """Keys, ascending and distinct; their values, (keys, width); and where they are removed."""

    keys: Keys
    values: Floats
    removed: Flags


@dataclass
class Table:
    """Keys, ascending, and their values, (keys, width).

    The keys are hashes, so their first bits tell about where a key is: those that begin with the
    bits b are from `offsets[b]` up to `offsets[b + 1]`, and a binary search finds it there. Keys
    that are no hashes cost no more than a binary search over all.
    """

    keys: Keys
    values: Floats
    offsets: Indices
    shift: int

    @classmethod
    def of(cls, keys: Keys, values: Floats) -> Table:
        """Of distinct ascending keys, uint64 (N,), and their values, float32 (N, width)."""
        bits = max(len(keys).bit_length() - 3, 1)  # a handful of keys for each
        shift = 64 - bits
        firsts = np.arange(1 << bits, dtype=np.uint64) << np.uint64(shift)
        offsets = np.append(np.searchsorted(keys, firsts), len(keys)).astype(np.int64)
        return cls(keys, values, offsets, shift)

    @classmethod
    def empty(cls, width: int) -> Table:
        """A table without keys."""
        return cls.of(np.empty(0, np.uint64), np.empty((0, width), np.float32))

    def lookup(self, keys: Keys) -> tuple[Floats, Flags]:
        """Values float32 (K, width) of keys uint64 (K,), and which of them were found, bool (K,).

        A key that is not in the table has zeros.
        """
        wanted = np.require(keys, np.uint64, ("C", "W"))
        values = np.zeros((len(wanted), self.values.shape[1]), np.float32)
        found = np.zeros(len(wanted), np.bool_)
        _look_up(
            *(self.offsets, np.uint64(self.shift), self.keys, self.values),
            *(wanted, values, found),
        )
        return values, found

    def changed(self, change: Change) -> Table:
        """A new table with the change applied. This table stays as it is."""
        if not len(self.keys):
            return Table.of(change.keys[~change.removed], change.values[~change.removed])
        at = np.searchsorted(self.keys, change.keys)
        known = np.zeros(len(at), np.bool_)
        inside = at < len(self.keys)
        known[inside] = self.keys[at[inside]] == change.keys[inside]
        updated, new = known & ~change.removed, ~known & ~change.removed
        values = self.values.copy()
        values[at[updated]] = change.values[updated]
        stay = np.ones(len(self.keys), np.bool_)
        stay[at[known & change.removed]] = False
        if stay.all() and not new.any():
            return Table(self.keys, values, self.offsets, self.shift)
        keys, values = self.keys[stay], values[stay]
        place = np.searchsorted(keys, change.keys[new]) + np.arange(new.sum())
        old = np.ones(len(keys) + len(place), np.bool_)
        old[place] = False
        all_keys = np.empty(len(old), np.uint64)
        all_values = np.empty((len(old), values.shape[1]), np.float32)
        all_keys[old], all_keys[place] = keys, change.keys[new]
        all_values[old], all_values[place] = values, change.values[new]
        return Table.of(all_keys, all_values)


def _compiled(function: _Function) -> _Function:
    compiled: _Function = numba.njit(cache=True, nogil=True)(function)
    return compiled


@_compiled
def _look_up(
    offsets: Any, shift: Any, keys: Any, values: Any, wanted: Any, out: Any, found: Any
) -> None:
    for row in range(len(wanted)):
        key = wanted[row]
        bits = key >> shift
        low = offsets[bits]
        end = offsets[bits + np.uint64(1)]
        high = end
        while low < high:
            middle = (low + high) // 2
            if keys[middle] < key:
                low = middle + 1
            else:
                high = middle
        if low < end and keys[low] == key:
            found[row] = True
            out[row] = values[low]


def one_after_the_other(changes: Sequence[Change]) -> Change:
    """Several changes merged into one. For each key the last change counts."""
    if len(changes) == 1:
        return changes[0]
    keys = np.concatenate([change.keys for change in changes])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    last = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
    taken = order[last]
    return Change(
        keys[last],
        np.concatenate([change.values for change in changes])[taken],
        np.concatenate([change.removed for change in changes])[taken],
    )
