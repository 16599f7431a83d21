"""How many workers work on a key at once, as far as a shard can know: whose newest pull has it.

Under SSP and async there is no moment at which all changes of a step are there to be averaged. So a
worker divides its change of a key by the number of workers whose newest batch has the key. A worker
that is between two batches is counted, because its next batch has a key that is in every batch. The
bound of SSP is the bound here: no worker is more than `staleness` steps behind, so what is counted
of it is not older.

The counters are a count-min sketch (see `trainer.table.admission`), from which a worker's keys are
taken out again when it pulls the next ones. They never count too few. They are not part of the
shard's state: nothing that they say is on the server alone, because the worker divides before it
pushes. So a backup that takes over begins without, and knows all workers again after their next
pull.
"""

# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit, uint64

from trainer.table.hashing import mix
from trainer.table.table import Keys

_DEPTH, _WIDTH = 2, 1 << 20


@njit(cache=True, nogil=True)
def _add(counters, keys, times):
    depth, width = counters.shape
    for i in range(len(keys)):
        for d in range(depth):
            counters[d, mix(keys[i] + uint64(d)) & uint64(width - 1)] += times


@njit(cache=True, nogil=True)
def _least(counters, keys, most):
    depth, width = counters.shape
    out = np.empty(len(keys), np.uint16)
    for i in range(len(keys)):
        least = most
        for d in range(depth):
            least = min(least, counters[d, mix(keys[i] + uint64(d)) & uint64(width - 1)])
        out[i] = least
    return out


class Sharing:
    """Of one shard. Takes 8 MiB from the first pull on."""

    def __init__(self) -> None:
        self._pulled: dict[int, Keys] = {}
        self._counters = np.zeros((_DEPTH, 0), np.int32)

    def pulled(self, worker: int, tables: Sequence[Keys]) -> list[npt.NDArray[np.uint16]]:
        """Note the keys of a worker's newest pull, of each table.

        Returns for each key the number of workers whose newest pull has it, this one included.
        """
        if not self._pulled:
            self._counters = np.zeros((_DEPTH, _WIDTH), np.int32)
        if worker in self._pulled:
            _add(self._counters, self._pulled[worker], -1)
        keys = np.concatenate(tables)
        self._pulled[worker] = keys
        _add(self._counters, keys, 1)
        found = _least(self._counters, keys, len(self._pulled))
        return np.split(found, np.cumsum([len(of) for of in tables])[:-1])
