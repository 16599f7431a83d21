"""Where a process runs, and under which address others reach it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """An address to listen at, and the words that put a command there.

    Loopback needs no such words. A network namespace needs `ip netns exec NAME`.
    """

    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


LOOPBACK = Place()
