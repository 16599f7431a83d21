"""The name of an impression: the one place that computes it (docs/sample-format.md)."""

from __future__ import annotations

from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

_MASK = 2**64 - 1


def sample_ids(request_id: str, item_ids: Sequence[str]) -> list[int]:
    """Of all impressions of a request, in order of position; signed 64-bit integers.

    XXH3-64 (Collet, https://xxhash.com) of the item id, seeded with the hash of the request id plus
    the position, so neither ids that contain separators nor a repeated item can collide by build.
    """
    seed = xxh3_64_intdigest(request_id.encode())
    digests = [
        xxh3_64_intdigest(item_id.encode(), (seed + position) & _MASK)
        for position, item_id in enumerate(item_ids)
    ]
    return [d - 2**64 if d >= 2**63 else d for d in digests]


def sample_id(request_id: str, item_id: str, position: int) -> int:
    """Of one impression; see `sample_ids`."""
    seed = xxh3_64_intdigest(request_id.encode())
    digest = xxh3_64_intdigest(item_id.encode(), (seed + position) & _MASK)
    return digest - 2**64 if digest >= 2**63 else digest
