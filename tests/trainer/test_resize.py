"""Shards that join a run: whatever rows move to them, they take the pushes that come next."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from trainer.run.placement import Placement, resize_plan
from trainer.run.server_commands import ServerCommands
from trainer.server import ring, wire
from trainer.server.host import Answer, Host
from trainer.server.shard import Push, TablePush
from trainer.spec import Ftrl, ModelSpec, Segment, Slot, TableSpec

WORKERS = 2
SPEC = ModelSpec(
    "lr",
    ("click",),
    (Slot("a", "a", "category"),),
    (TableSpec("weights", (Segment("linear", 1, Ftrl()),), admit_after=2),),
)
#: With one virtual node each, the last of so many shards gets no arc: another one's is there.
FULL = 501


class Servers:
    """Two hosts in memory, one for the shards that are there and one for those that join."""

    def __init__(self, contributions: int | None) -> None:
        self.hosts = {server: Host(server, lambda work: work()) for server in (0, 1)}
        self.commands = ServerCommands(self._tell, contributions=contributions, dense=None)
        self._ids = itertools.count(1)

    def _tell(
        self, server: int, shard: int, command: str, frames: Sequence[Any] = (), **arguments: Any
    ) -> tuple[Any, list[Any]]:
        head = wire.Command(next(self._ids), shard, command, wire.pack_arguments(**arguments))
        message = [memoryview(bytes(frame)) for frame in wire.pack(head, frames)]
        (answer,) = self.hosts[server].receive("coordinator", message)
        assert isinstance(answer, Answer)
        got = [memoryview(bytes(frame)) for frame in answer.frames]
        reply = wire.unpack_reply(got)
        assert reply.error is None, reply.error
        return wire.unpack_arguments(reply.arguments)["of"], list(got[1:])


@pytest.mark.parametrize("contributions", [None, WORKERS])
@pytest.mark.parametrize(("before", "after", "virtual_nodes"), [(2, 4, 8), (FULL, FULL + 1, 1)])
def test_a_shard_that_joins_takes_the_next_pushes(
    before: int, after: int, virtual_nodes: int, contributions: int | None
) -> None:
    servers = Servers(contributions)
    for server in servers.hosts:
        servers.commands.set_model(server, SPEC)
    placement = Placement.initial(before, range(before), replicated=False, epoch=0)
    placement = Placement(0, dict.fromkeys(placement.shards, 0), placement.backups)
    for shard in placement.shards:
        servers.commands.create(0, shard, (), 1)
    keys = np.arange(1, 200, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)

    def shards() -> dict[int, Any]:
        return {
            shard: servers.hosts[at].replicas.held[shard].shard
            for shard, at in placement.primaries.items()
        }

    def pushed(sequences: range) -> None:
        owners = ring.owners(placement.shards, virtual_nodes)[ring.arcs_of(keys)]
        for sequence, worker in itertools.product(sequences, range(WORKERS)):
            for number, shard in shards().items():
                mine = keys[owners == number]
                ones = np.ones((len(mine), 1), np.float32)
                counts = np.ones(len(mine), np.uint32)
                shard.push(
                    Push(worker, sequence, sequence, 0, [TablePush(mine, ones, counts)], None)
                )

    pushed(range(2))
    plan = resize_plan(placement.shards, after, virtual_nodes)
    assert bool(plan.moves) == (before != FULL)
    for shard in placement.shards:
        servers.commands.settle(placement, shard, 2)
    for shard in plan.joining:
        servers.commands.add_shard(placement, shard, 1, 1)
    placement = placement.with_shards(dict.fromkeys(plan.joining, 1))
    for move in plan.moves:
        servers.commands.move(placement, move)
    pushed(range(2, 4))
    for shard in shards().values():
        assert {w: (m.below, m.above) for w, m in shard.marks.items()} == {
            worker: (4, set()) for worker in range(WORKERS)
        }
        shard.settle(4)
    assert sum(shard.tables[0].rows for shard in shards().values()) == len(keys)
