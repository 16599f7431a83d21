"""The routing that workers get: which server has which shard."""

from __future__ import annotations

import msgspec


class Routing(msgspec.Struct, frozen=True):
    """`primaries`: the server of each shard. `dense`: the shard with the dense parameters

    (None: the model has none). Which shard has a key follows from the set of shards and
    `virtual_nodes` (see `trainer.server.ring`).
    """

    epoch: int
    primaries: dict[int, int]
    virtual_nodes: int
    dense: int | None

    @property
    def shards(self) -> list[int]:
        """The numbers of all shards, ascending."""
        return sorted(self.primaries)
