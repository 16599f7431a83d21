"""Which keys move when a server joins or leaves, and how even the shares are: from the ring alone.

Arcs are of equal length and keys are hashed, so shares of arcs are shares of keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.server.ring import Owners, owners

SERVERS = range(2, 17)
VIRTUAL_NODES = 128


@dataclass(frozen=True)
class Moved:
    """With `servers` servers; all are shares of the keys but `largest`.

    `joined`: what moves when one more comes. `left`: when one goes, the mean over which one, and
    `left_most`. `needless`: what moved between servers that stay, the most of all changes.
    `largest`: the largest share over the mean share.
    """

    servers: int
    joined: float
    left: float
    left_most: float
    needless: float
    largest: float


def moved(servers: int, virtual_nodes: int = VIRTUAL_NODES) -> Moved:
    """What the ring of so many servers does, which are numbered from 0."""
    now = owners(range(servers), virtual_nodes)
    more = owners(range(servers + 1), virtual_nodes)
    left, needless = [], [_needless(now, more, servers)]
    for gone in range(servers):
        fewer = owners([n for n in range(servers) if n != gone], virtual_nodes)
        left.append(_share(now, fewer))
        needless.append(_needless(fewer, now, gone))
    shares = np.bincount(now, minlength=servers)
    return Moved(
        servers,
        joined=_share(now, more),
        left=float(np.mean(left)),
        left_most=max(left),
        needless=max(needless),
        largest=float(shares.max() / shares.mean()),
    )


def _share(before: Owners, after: Owners) -> float:
    return float((before != after).mean())


def _needless(without: Owners, having: Owners, server: int) -> float:
    """What has another owner with the server there, which is not this server."""
    return float(((without != having) & (having != server)).mean())
