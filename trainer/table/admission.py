"""How often a key was seen before it has a row: a count-min sketch with conservative update.

Cormode and Muthukrishnan, An improved data stream summary: the count-min sketch (J. Algorithms
2005); conservative update of Estan and Varghese (SIGCOMM 2002). It never counts too little; too
much only where keys collide in all rows, and then a key is admitted a little early.
"""

# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit, uint64

from trainer.table.hashing import mix

DEPTH = 4
WIDTH = 1 << 20
_LARGEST = np.iinfo(np.uint16).max

Counters = npt.NDArray[np.uint16]


def empty(width: int = WIDTH) -> Counters:
    """Counters (DEPTH, width); `width` is a power of two. 8 MiB by default."""
    return np.zeros((DEPTH, width), np.uint16)


def merged(one: Counters, other: Counters) -> Counters:
    """For the keys of both: a key was counted in one of them, so the greater counts are enough."""
    return np.maximum(one, other)


@njit(cache=True, nogil=True)
def count(counters, keys, times):
    """Counts each key so many `times` more; what is known of it then, at least its true count."""
    depth, width = counters.shape
    out = np.empty(len(keys), np.int64)
    places = np.empty(depth, np.int64)
    for i in range(len(keys)):
        least = np.int64(_LARGEST)
        for d in range(depth):
            spread = mix(keys[i] + uint64(d) * uint64(0xD1B54A32D192ED03))
            places[d] = np.int64(spread & uint64(width - 1))
            least = min(least, np.int64(counters[d, places[d]]))
        least = min(least + np.int64(times[i]), np.int64(_LARGEST))
        for d in range(depth):
            if counters[d, places[d]] < least:
                counters[d, places[d]] = least
        out[i] = least
    return out
