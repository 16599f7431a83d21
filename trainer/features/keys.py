"""The key of a feature: a 64-bit hash of (slot, value)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from xxhash import xxh3_128_digest

from trainer.features.xxh3 import hashes


def slot_prefix(slot: str) -> bytes:
    """The 16 bytes in front of every value of a slot: XXH3-128 of the slot's name in UTF-8.

    With this prefix the input always has more than 16 bytes. For shorter inputs XXH3 uses a simpler
    function, and hashes of short ids have been seen to collide (see `schemas.sample_id`).
    """
    return xxh3_128_digest(slot.encode())


def keys_of(slot: str, values: Iterable[str] | pa.Array) -> npt.NDArray[np.uint64]:
    """The keys of values: XXH3-64 (seed 0) of the slot's prefix and the value in UTF-8.

    A hash of 0 becomes 1. Integers are given as decimal text, booleans as "true" and "false", so
    that a ranking service can compute the same keys in any language.
    """
    if not isinstance(values, pa.Array):
        values = pa.array(list(values), pa.string())
    keys: npt.NDArray[np.uint64] = np.maximum(hashes(slot_prefix(slot), values), np.uint64(1))
    return keys
