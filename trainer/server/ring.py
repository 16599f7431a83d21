"""Which shard has a key: consistent hashing with virtual nodes.

Karger et al., Consistent hashing and random trees (STOC 1997); virtual nodes as in Dynamo (DeCandia
et al., SOSP 2007). The high bits of the key select one of 2^16 arcs of equal length. An arc belongs
to the first virtual node at or after its start. So a look-up is one array access, and whole arcs
move when a shard joins or leaves.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

ARC_BITS = 16
ARCS = 1 << ARC_BITS
_SHIFT = np.uint64(64 - ARC_BITS)

Owners = npt.NDArray[np.int16]


def owners(shards: Iterable[int], virtual_nodes: int) -> Owners:
    """The shard of each arc, (ARCS,). It depends only on the set of shards.

    Raises ValueError if there is no shard.
    """
    ids = sorted(set(shards))
    if not ids:
        raise ValueError("a ring needs at least one shard")
    points = [
        (xxh3_64_intdigest(f"shard {shard} node {node}".encode()) >> (64 - ARC_BITS), shard)
        for shard in ids
        for node in range(virtual_nodes)
    ]
    points.sort()
    places = np.array([place for place, _ in points])
    at = np.searchsorted(places, np.arange(ARCS)) % len(points)
    return np.array([shard for _, shard in points], np.int16)[at]


def arcs_of(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The arc of each key, int64 (keys,)."""
    arcs: npt.NDArray[np.int64] = (keys >> _SHIFT).astype(np.int64)
    return arcs
