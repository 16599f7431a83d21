"""The commands of the coordinator to shard servers between batches.

`trainer.server.commands` is the side that executes them. How a command reaches a server is a
parameter (`Tell`), so the simulation that tests fail-over sends the same commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np

from configuration.stores import Folder, address_of
from trainer.run.placement import Move, Placement
from trainer.run.runner import RunError
from trainer.server import ring
from trainer.server.shard import ShardSnapshot
from trainer.server.shard_file import snapshot_from_bytes, snapshot_to_bytes
from trainer.spec import ModelSpec
from trainer.table.optimizers import Floats

_T = TypeVar("_T")


class Tell(Protocol):
    """Sends a command to a server and waits for its answer: a value, and frames.

    `shard` is -1 for the whole server. Raises RunError where the server answers with an error, and
    ServerGoneError where it ends or does not answer in time.
    """

    def __call__(
        self, server: int, shard: int, command: str, frames: Sequence[Any] = (), **arguments: Any
    ) -> tuple[Any, list[Any]]:
        """Give a command to a server; return its value and its frames."""


class ServerCommands:
    """`contributions`: the workers whose pushes make a step (BSP), or None.

    `dense`: the shard with the dense parameters, or None. All methods raise as `Tell` does.
    """

    def __init__(self, tell: Tell, *, contributions: int | None, dense: int | None) -> None:
        self._tell, self._contributions, self._dense = tell, contributions, dense

    # -- placing -----------------------------------------------------------------------------------

    def set_model(self, server: int, spec: ModelSpec) -> None:
        """Set the model of the server's shards. All replicas on the server are removed."""
        self._tell(server, -1, "model", [msgspec.msgpack.encode(spec)])

    def create(self, server: int, shard: int, frames: Sequence[Any], lineage: int) -> None:
        """A new replica: empty, or of the snapshot that `frames` has (see `snapshot_frames`)."""
        self._tell(
            server,
            shard,
            "create",
            frames,
            contributions=self._contributions,
            has_dense=shard == self._dense,
            lineage=lineage,
        )

    def add_shard(self, placement: Placement, shard: int, server: int, lineage: int) -> None:
        """Between batches: a new shard without rows on `server`, which knows the same pushes.

        Otherwise a shard to which no rows move would wait for the pushes that came before it: it
        would keep a mark of each later one, and under BSP refuse the next step.
        """
        beside = placement.shards[0]
        nothing = [np.zeros(ring.ARCS, np.bool_).tobytes()]
        _, frames = self._tell(placement.primaries[beside], beside, "take out", nothing)
        taken = snapshot_from_bytes(frames[0])
        taken.sketches = [None] * len(taken.sketches)  # none of its keys was counted yet
        self.create(server, shard, [snapshot_to_bytes(taken)], lineage)

    def announce(self, placement: Placement, servers: Iterable[int]) -> None:
        """Tell every server the epoch, and which of its replicas are primaries.

        Workers are told afterwards, because a server refuses an epoch that it does not know yet.
        """
        for server in servers:
            self._tell(
                *(server, -1, "route"),
                epoch=placement.epoch,
                backups=placement.primaries_on(server),
            )

    def add_backup(
        self, placement: Placement, shard: int, server: int, *, step: int, lineage: int
    ) -> Placement:
        """Copy a shard to `server`. Returns the placement with that backup."""
        self.settle(placement, shard, step)
        frames = self.snapshot_frames(placement.primaries[shard], shard)
        self.create(server, shard, frames, lineage)
        return placement.with_backup(shard, server)

    def drop(self, placement: Placement, shard: int) -> None:
        """Removes all replicas of a shard."""
        for server in placement.holders(shard):
            self._tell(server, shard, "drop")

    # -- content -----------------------------------------------------------------------------------

    def settle(self, placement: Placement, shard: int, step: int) -> None:
        """BSP: all steps before `step` are complete, so all replicas apply them."""
        for server in placement.holders(shard):
            self._tell(server, shard, "settle", step=step)

    def snapshot_frames(self, server: int, shard: int) -> list[Any]:
        """A replica's snapshot, as `create` takes it: one frame."""
        return self._tell(server, shard, "snapshot")[1]

    def snapshot(self, server: int, shard: int) -> ShardSnapshot:
        """A copy of a replica."""
        return snapshot_from_bytes(self.snapshot_frames(server, shard)[0])

    def expire(self, placement: Placement, *, step: int, now: int) -> int:
        """Drops old rows on all replicas; returns how many the primaries had."""
        gone = 0
        for shard in placement.shards:
            self.settle(placement, shard, step)
            first, *others = placement.holders(shard)
            gone += self._tell(first, shard, "expire", now=now)[0]
            for server in others:
                self._tell(server, shard, "expire", now=now)
        return gone

    def checkpoint(self, placement: Placement, folder: Folder, *, step: int) -> None:
        """All primaries take a snapshot and begin to write it (see `result`)."""
        for shard, server in placement.primaries.items():
            self.settle(placement, shard, step)
            self._tell(server, shard, "checkpoint", folder=address_of(folder))

    def export(
        self, placement: Placement, folder: Folder, number: int, *, everything: bool, step: int
    ) -> Floats | None:
        """All primaries begin to write what changed (see `result`); returns the dense vector."""
        dense = None
        arguments = {"folder": address_of(folder), "number": number, "everything": everything}
        for shard in placement.shards:
            self.settle(placement, shard, step)
            for server in placement.holders(shard):
                _, frames = self._tell(server, shard, "export", (), **arguments)
                if frames and server == placement.primaries[shard]:
                    dense = np.frombuffer(frames[0], np.float32)
        return dense

    def result(self, server: int, shard: int, name: str, kind: type[_T]) -> list[_T] | None:
        """The files of `checkpoint` or `export` (`name`); None while they are not complete.

        Raises RunError if writing failed.
        """
        result, _ = self._tell(server, shard, "result", name=name)
        if result is None:
            return None
        if "error" in result:
            raise RunError(f"server {server}, {name} of shard {shard}: {result['error']}")
        return msgspec.convert(result["of"], list[kind])  # type: ignore[valid-type]

    def move(self, placement: Placement, move: Move) -> int:
        """Move rows from all replicas of a shard to all of another. Returns how many."""
        mask = [move.arcs.tobytes()]
        first, *others = placement.holders(move.shard)
        rows, frames = self._tell(first, move.shard, "take out", mask)
        for server in others:
            self._tell(server, move.shard, "take out", mask)
        for server in placement.holders(move.owner):
            self._tell(server, move.owner, "take in", frames)
        return int(rows)

    def waiting_s(self, placement: Placement, shard: int) -> float:
        """For how many seconds the oldest push of a shard has waited for the backup."""
        return float(self._tell(placement.primaries[shard], shard, "waiting")[0])

    def stats(self, placement: Placement) -> dict[int, Any]:
        """By shard, of its primary: lists `rows` and `bytes` by table, and counts of messages."""
        return {s: self._tell(at, s, "stats")[0] for s, at in placement.primaries.items()}
