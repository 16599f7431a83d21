"""The name of an impression: the one place that computes it (docs/sample-format.md)."""

from __future__ import annotations

from collections.abc import Sequence

from xxhash import xxh3_64_intdigest


def sample_ids(request_id: str, item_ids: Sequence[str]) -> list[int]:
    """Of all impressions of a request, in order of position; signed 64-bit integers.

    XXH3-64 (Collet, https://xxhash.com) of 16 bytes and the item id: the hash of the request id and
    the position, little-endian, 8 bytes each. No separators, so ids may contain anything; and more
    than 16 bytes, since XXH3 treats shorter inputs and the seed more simply (with the position in
    the seed, item ids of 3 bytes collided within a request).
    """
    request = xxh3_64_intdigest(request_id.encode()).to_bytes(8, "little")
    digests = [
        xxh3_64_intdigest(request + position.to_bytes(8, "little") + item_id.encode())
        for position, item_id in enumerate(item_ids)
    ]
    return [d - 2**64 if d >= 2**63 else d for d in digests]


def sample_id(request_id: str, item_id: str, position: int) -> int:
    """Of one impression; see `sample_ids`."""
    request = xxh3_64_intdigest(request_id.encode()).to_bytes(8, "little")
    digest = xxh3_64_intdigest(request + position.to_bytes(8, "little") + item_id.encode())
    return digest - 2**64 if digest >= 2**63 else digest
