"""How often a key was seen before it has a row: a count-min sketch with conservative update.

Cormode and Muthukrishnan, An improved data stream summary: the count-min sketch (J. Algorithms
2005). The conservative update is from Estan and Varghese (SIGCOMM 2002). The sketch never counts
too little. It counts too much only where a key collides in all rows; then the key is admitted a
little early.
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
    """New counters, uint16 (DEPTH, width); `width` is a power of two. The default takes 8 MiB."""
    return np.zeros((DEPTH, width), np.uint16)


def merged(one: Counters, other: Counters) -> Counters:
    """One sketch for the keys of both.

    Each key was counted in one of the two, so the greater counter is enough.
    """
    return np.maximum(one, other)


@njit(cache=True, nogil=True)
def count(counters, keys, times):
    """Count each key `times` more.

    Returns the estimates after that; each is at least the true count.
    """
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
