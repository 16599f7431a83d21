"""The key of a feature: a 64-bit hash of (slot, value)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from xxhash import xxh3_128_digest

from trainer.features.xxh3 import hashes


def slot_prefix(slot: str) -> bytes:
    """What every value of a slot is hashed behind: XXH3-128 of the slot's name (UTF-8), 16 bytes.

    So the input has always more than 16 bytes: below that XXH3 is simpler, and hashes of short ids
    have been seen to collide (see `schemas.sample_id`).
    """
    return xxh3_128_digest(slot.encode())


def keys_of(slot: str, values: Iterable[str] | pa.Array) -> npt.NDArray[np.uint64]:
    """XXH3-64 (seed 0) of the slot's prefix and the value in UTF-8; 1 for what would be 0.

    Integers come as decimal text, booleans as "true" and "false", so that what ranks can compute
    the same in any language.
    """
    if not isinstance(values, pa.Array):
        values = pa.array(list(values), pa.string())
    keys: npt.NDArray[np.uint64] = np.maximum(hashes(slot_prefix(slot), values), np.uint64(1))
    return keys
