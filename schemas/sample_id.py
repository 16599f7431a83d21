"""The name of an impression (docs/sample-format.md).

The one place in Python that computes it; `udfs/jvm/ExplodeSamples.java` does for written rows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from xxhash import xxh3_64_digest

#: The first positions as they are hashed, 8 bytes each, little-endian.
_POSITIONS = [position.to_bytes(8, "little") for position in range(1024)]


def sample_ids(request_id: str, item_ids: Sequence[str]) -> list[int]:
    """Of all impressions of a request, in order of position; signed 64-bit integers.

    XXH3-64 (Collet, https://xxhash.com) of 16 bytes and the item id: the hash of the request id and
    the position, little-endian, 8 bytes each. No separators, so ids may contain anything; and more
    than 16 bytes, since XXH3 treats shorter inputs and the seed more simply (with the position in
    the seed, item ids of 3 bytes collided within a request).
    """
    # a digest is big-endian, as xxHash's canonical form is
    request = xxh3_64_digest(request_id.encode())[::-1]
    positions: Iterable[bytes] = _POSITIONS
    if len(item_ids) > len(_POSITIONS):
        positions = (position.to_bytes(8, "little") for position in range(len(item_ids)))
    ids = b"".join(
        [
            xxh3_64_digest(request + position + item_id.encode())
            for position, item_id in zip(positions, item_ids, strict=False)
        ]
    )
    return list(struct.unpack(f">{len(item_ids)}q", ids))


def sample_id(request_id: str, item_id: str, position: int) -> int:
    """Of one impression; see `sample_ids`."""
    request = xxh3_64_digest(request_id.encode())[::-1]
    digest = xxh3_64_digest(request + position.to_bytes(8, "little") + item_id.encode())
    return int.from_bytes(digest, "big", signed=True)
