"""By what a worker divides its change of a key, as far as a shard can know: who else has it now.

Under SSP and async there is no moment at which all changes of a step are there to be averaged
(`trainer.server.averages`). So a worker divides before it pushes, by the effective number of
workers that have the key in their newest batch. How much each of them learns of the key is not
known yet: how many of its samples have the key stands for it. Samples without weight do not count.
A worker that is between two batches is counted, because its next batch has a key that is in every
batch. The bound of SSP is the bound here: no worker is more than `staleness` steps behind, so what
is counted of it is not older.

The sums are exact. They are not part of the shard's state: nothing that they say is on the server
alone, because the worker divides before it pushes. So a backup that takes over begins without, and
knows all workers again after their next pull.
"""

# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, uint64

from trainer.table.hashing import home
from trainer.table.optimizers import Floats
from trainer.table.table import FREE, MAX_LOAD, Counts, Keys

_LEAST = 1024


@njit(cache=True, nogil=True, inline="always")
def _probe(places, key):
    """The place that has a key, or the free one that it would get."""
    at: Any = np.int64(home(key, len(places)))
    while places[at] != key and places[at] != uint64(FREE):
        at += 1
        if at == len(places):
            at = 0
    return at


@njit(cache=True, nogil=True)
def _add(places, sums, keys, samples, sign):
    """Add samples, and their squares, to the sums of keys. Returns how many places were taken."""
    taken = 0
    for i in range(len(keys)):
        if samples[i] > 0:
            at = _probe(places, keys[i])
            if places[at] != keys[i]:
                places[at] = keys[i]
                taken += 1
            of = np.int64(samples[i])
            sums[at, 0] += sign * of
            sums[at, 1] += sign * of * of
    return taken


@njit(cache=True, nogil=True)
def _effective(places, sums, keys):
    out = np.ones(len(keys), np.float32)
    for i in range(len(keys)):
        at = _probe(places, keys[i])
        if places[at] == keys[i] and sums[at, 1] > 0:
            out[i] = np.float64(sums[at, 0]) ** 2 / np.float64(sums[at, 1])
    return out


class _Sums:
    """Of the newest pulls of one table."""

    def __init__(self) -> None:
        self._pulled: dict[int, tuple[Keys, Counts]] = {}
        self._allocate(_LEAST)

    def _allocate(self, capacity: int) -> None:
        self._places: Keys = np.zeros(capacity, np.uint64)
        #: Of the samples of all workers, and of their squares.
        self._sums: npt.NDArray[np.int64] = np.zeros((capacity, 2), np.int64)
        self._taken = 0

    def pulled(self, worker: int, keys: Keys, samples: Counts) -> Floats:
        before = self._pulled.pop(worker, None)
        if before is not None:
            _add(self._places, self._sums, *before, -1)
        # copies, because the message that they are part of is much larger
        self._pulled[worker] = keys.copy(), samples.copy()
        if self._taken + len(keys) > MAX_LOAD * len(self._places):
            # places of keys that nobody has any more are free again
            everything = sum(len(of_worker) for of_worker, _ in self._pulled.values())
            self._allocate(max(_LEAST, 2 * everything))
            for newest in self._pulled.values():
                self._taken += _add(self._places, self._sums, *newest, 1)
        else:
            self._taken += _add(self._places, self._sums, keys, samples, 1)
        divisors: Floats = _effective(self._places, self._sums, keys)
        return divisors


class Sharing:
    """Of one shard. Takes about 60 bytes for each key of the workers' newest batches."""

    def __init__(self) -> None:
        self._tables: list[_Sums] = []

    def pulled(
        self, worker: int, tables: Sequence[Keys], samples: Sequence[Counts]
    ) -> list[Floats]:
        """Note the keys of a worker's newest pull, of each table, and how many samples have each.

        Returns for each key by what the worker is to divide its changes, at least 1.
        """
        if not self._tables:
            self._tables = [_Sums() for _ in tables]
        each = zip(self._tables, tables, samples, strict=True)
        return [sums.pulled(worker, keys, counts) for sums, keys, counts in each]
