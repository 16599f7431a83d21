"""Which server holds which shard, and what changes when servers end, start, join or leave. Pure.

Nothing here sends a message: functions return a new placement, or a plan of what is to be copied
and moved. `trainer.run.coordinator` carries it out, and so does the simulation that tests it.

Each shard has a primary, and a backup on another server where shards are replicated. Every change
that workers must know of has a new epoch; servers refuse requests of another epoch than theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from trainer.run.runner import LostShardError
from trainer.server import ring
from trainer.server.routing import Routing

#: More shards than any cluster will have; a larger number is probably a typing error.
MOST_SERVERS = 1024


@dataclass(frozen=True)
class Placement:
    """`primaries` and `backups`: the server of each shard; a backup is None where there is none."""

    epoch: int
    primaries: Mapping[int, int]
    backups: Mapping[int, int | None]

    @classmethod
    def initial(
        cls, shards: int, servers: Collection[int], *, replicated: bool, epoch: int
    ) -> Placement:
        """One shard for each of the first `shards` servers; its backup is on the next server."""
        numbers = sorted(servers)
        primaries = {shard: numbers[shard] for shard in range(shards)}
        backups = {
            shard: numbers[(shard + 1) % len(numbers)] if replicated else None
            for shard in range(shards)
        }
        return cls(epoch, primaries, backups)

    @property
    def shards(self) -> list[int]:
        """The numbers of all shards, ascending."""
        return sorted(self.primaries)

    @property
    def replicated(self) -> bool:
        """Whether every shard has a backup."""
        return all(server is not None for server in self.backups.values())

    def holders(self, shard: int) -> list[int]:
        """The servers with a replica of the shard, the primary first."""
        backup = self.backups[shard]
        return [self.primaries[shard], *([] if backup is None else [backup])]

    def primaries_on(self, server: int) -> dict[int, int | None]:
        """The shards whose primary is on `server`, and their backups."""
        return {s: self.backups[s] for s, at in self.primaries.items() if at == server}

    def routing(self, virtual_nodes: int, dense: int | None) -> Routing:
        """The part that workers need."""
        return Routing(self.epoch, dict(self.primaries), virtual_nodes, dense)

    def renewed(self) -> Placement:
        """The same placement in the next epoch."""
        return replace(self, epoch=self.epoch + 1)

    # -- when a server ends ------------------------------------------------------------------------

    def without(self, server: int) -> Placement:
        """The placement after `server` has ended.

        Backups of its primaries become primaries, in a new epoch. Raises LostShardError if it had
        the only replica of a shard.
        """
        lost = [s for s, backup in self.primaries_on(server).items() if backup is None]
        if lost:
            raise LostShardError(f"shards {lost}")
        primaries, backups = dict(self.primaries), dict(self.backups)
        for shard, at in self.primaries.items():
            backup = self.backups[shard]
            if at == server:
                assert backup is not None
                primaries[shard], backups[shard] = backup, None
            elif backup == server:
                backups[shard] = None
        return Placement(self.epoch + 1, primaries, backups)

    def apart(self, one: int, other: int) -> Placement:
        """The placement after two servers were found not to reach each other.

        Shards that have both replicas there go on without a backup, in a new epoch.
        """
        backups = {
            shard: None if {self.primaries[shard], at} == {one, other} else at
            for shard, at in self.backups.items()
        }
        return Placement(self.epoch + 1, self.primaries, backups)

    def repairs(
        self, servers: Collection[int], apart: Collection[frozenset[int]] = ()
    ) -> dict[int, int]:
        """A server for the missing backup of each shard, where there is another server.

        Each goes to the server that holds the fewest replicas by then. `apart`: pairs of servers
        that do not reach each other.
        """
        held = [*self.primaries.values(), *(at for at in self.backups.values() if at is not None)]
        found: dict[int, int] = {}
        for shard, backup in self.backups.items():
            primary = self.primaries[shard]
            others = sorted(
                n for n in servers if n != primary and frozenset((n, primary)) not in apart
            )
            if backup is None and others:
                found[shard] = min(others, key=held.count)
                held.append(found[shard])
        return found

    def with_backup(self, shard: int, server: int) -> Placement:
        """The same with a backup of `shard` on `server`; nobody has been told about it yet."""
        return replace(self, backups={**self.backups, shard: server})

    def has_spare(self, servers: Collection[int], apart: Collection[frozenset[int]] = ()) -> bool:
        """Whether a shard lacks its backup while a server that could have it holds nothing."""
        used = {*self.primaries.values(), *self.backups.values()}
        return any(server not in used for server in self.repairs(servers, apart).values())

    # -- when the number of servers changes --------------------------------------------------------

    def with_shards(self, servers: Mapping[int, int]) -> Placement:
        """The same with new shards, whose primaries are on `servers`, and without backups yet."""
        return replace(
            self,
            primaries={**self.primaries, **servers},
            backups={**self.backups, **dict.fromkeys(servers)},
        )

    def without_shards(self, shards: Collection[int]) -> Placement:
        """The same without these shards.

        Servers without a primary will be ended, so backups on them are dropped too.
        """
        primaries = {s: at for s, at in self.primaries.items() if s not in shards}
        staying = set(primaries.values())
        backups = {s: at if at in staying else None for s, at in self.backups.items()}
        return replace(self, primaries=primaries, backups={s: backups[s] for s in primaries})


@dataclass(frozen=True)
class Move:
    """Rows of some arcs that move from one shard to another. `arcs`: a mask, bool (ring.ARCS,)."""

    shard: int
    owner: int
    arcs: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ResizePlan:
    """`joining`: shards that are created first. `leaving`: shards that are removed at the end."""

    joining: Sequence[int]
    moves: Sequence[Move]
    leaving: Sequence[int]


def resize_plan(shards: Collection[int], servers: int, virtual_nodes: int) -> ResizePlan:
    """The change from the present shards to one shard for each of `servers` servers.

    Shards are added or removed at the end of their numbers, and only rows whose arc gets another
    owner move. Raises ValueError for a number that is not possible.
    """
    if not 1 <= servers <= MOST_SERVERS:
        raise ValueError(f"expected a number of servers from 1 to {MOST_SERVERS:,}")
    before, after = sorted(shards), list(range(servers))
    old = ring.owners(before, virtual_nodes)
    new = ring.owners(after, virtual_nodes)
    moves = [
        Move(shard, owner, (old == shard) & (new == owner))
        for shard in before
        for owner in sorted(set(new[old == shard].tolist()) - {shard})
    ]
    return ResizePlan(
        [shard for shard in after if shard not in before],
        moves,
        [shard for shard in before if shard not in after],
    )
