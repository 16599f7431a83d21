"""The commands that the coordinator gives a shard server between batches.

Each takes the server's replicas, the number of the shard (-1 where the command is for the whole
server), the frames behind the header, and named arguments. It returns a value for msgpack, and
frames. `trainer.run.server_commands` is the side that sends them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from configuration.stores import from_address
from trainer.server.replicas import Replica, Replicas
from trainer.server.ring import ARCS
from trainer.server.shard import Shard
from trainer.server.shard_file import snapshot_from_bytes, snapshot_to_bytes, write_shard
from trainer.server.sharing import Sharing
from trainer.serving.write import write_tables
from trainer.spec import ModelSpec

Result = tuple[Any, list[Any]]


def _model(replicas: Replicas, shard: int, frames: Sequence[Any]) -> Result:
    """Sets the model (frame: the spec in msgpack). All replicas that are here go."""
    replicas.spec = msgspec.msgpack.decode(frames[0], type=ModelSpec)
    replicas.held.clear()
    return None, []


def _create(
    replicas: Replicas,
    shard: int,
    frames: Sequence[Any],
    *,
    contributions: int | None,
    has_dense: bool,
    lineage: int = 0,
) -> Result:
    """Creates a replica: empty, or with the snapshot in the frame, if there is one."""
    assert replicas.spec is not None
    made = Shard(replicas.spec, contributions=contributions, has_dense=has_dense)
    if frames:
        made.load(snapshot_from_bytes(frames[0]))
    replicas.held[shard] = Replica(made, primary=False, lineage=lineage)
    return None, []


def _route(
    replicas: Replicas,
    shard: int,
    frames: Sequence[Any],
    *,
    epoch: int,
    backups: Mapping[int, int | None],
) -> Result:
    """Begins a new epoch. `backups`: the shards that are primary here, and their backup servers."""
    replicas.epoch = epoch
    for number, replica in replicas.held.items():
        if replica.primary != (number in backups):
            # what workers have pulled here while it was primary before is long out of date
            replica.sharing = Sharing()
        replica.primary = number in backups
        replica.backup = backups.get(number)
    return None, []


def _drop(replicas: Replicas, shard: int, frames: Sequence[Any]) -> Result:
    """Removes a replica, if it is here."""
    replicas.held.pop(shard, None)
    return None, []


def _settle(replicas: Replicas, shard: int, frames: Sequence[Any], *, step: int) -> Result:
    """BSP: all steps before `step` are complete, so they are applied."""
    replicas.held[shard].shard.settle(step)
    return None, []


def _expire(replicas: Replicas, shard: int, frames: Sequence[Any], *, now: int) -> Result:
    """Drops old rows by event time (`now`: seconds); the value is how many."""
    return replicas.held[shard].shard.expire(now), []


def _snapshot(replicas: Replicas, shard: int, frames: Sequence[Any]) -> Result:
    """Answers with one frame: the shard's snapshot (see `shard_file`)."""
    return None, [snapshot_to_bytes(replicas.held[shard].shard.snapshot())]


def _checkpoint(replicas: Replicas, shard: int, frames: Sequence[Any], *, folder: str) -> Result:
    """Takes a snapshot in memory, and writes it while training goes on."""
    snapshot, spec = replicas.held[shard].shard.snapshot(), replicas.held[shard].shard.spec
    replicas.run_later(
        f"checkpoint {shard}",
        lambda: [msgspec.to_builtins(write_shard(from_address(folder), shard, snapshot, spec))],
    )
    return snapshot.rows, []


def _export(
    replicas: Replicas,
    shard: int,
    frames: Sequence[Any],
    *,
    folder: str,
    number: int,
    everything: bool,
) -> Result:
    """Takes what changed since the last export (or all), and writes it while training goes on.

    The primary writes the files; a backup only counts changes anew. The value is the number of
    rows; the frame, where the shard has the dense parameters, is their float32 vector.
    """
    replica = replicas.held[shard]
    spec = replica.shard.spec
    changed = [table.changed(everything=everything) for table in replica.shard.tables]
    names = [table.spec.name for table in replica.shard.tables]
    dense = [] if replica.shard.dense is None else [replica.shard.dense.values.tobytes()]
    if replica.primary:
        replicas.run_later(
            f"export {shard}",
            lambda: msgspec.to_builtins(
                write_tables(from_address(folder), number, shard, names, changed, spec)
            ),
        )
    return sum(len(keys) for keys, _, _ in changed), dense


def _result(replicas: Replicas, shard: int, frames: Sequence[Any], *, name: str) -> Result:
    """What became of work that outlasted its command (see `Replicas.results`); None: not ready."""
    return replicas.results.get(f"{name} {shard}"), []


def _take_out(replicas: Replicas, shard: int, frames: Sequence[Any]) -> Result:
    """Removes the rows of the arcs in the frame (a boolean each), and answers with them."""
    replica = replicas.held[shard]
    moved = replica.shard.take_out(np.frombuffer(frames[0], np.bool_, ARCS))
    replica.sharing = Sharing()
    return moved.rows, [snapshot_to_bytes(moved)]


def _take_in(replicas: Replicas, shard: int, frames: Sequence[Any]) -> Result:
    """Adds the rows that another shard took out."""
    replica = replicas.held[shard]
    replica.shard.take_in(snapshot_from_bytes(frames[0]))
    replica.sharing = Sharing()
    return None, []


def _waiting(replicas: Replicas, shard: int, frames: Sequence[Any]) -> Result:
    """For how many seconds the oldest push has waited for the backup; 0.0: none waits."""
    parked = replicas.held[shard].parked.values()
    now = replicas.clock()
    return max((now - each.since for each in parked), default=0.0), []


def _stats(replicas: Replicas, shard: int, frames: Sequence[Any]) -> Result:
    """Rows and bytes of each table of a shard; messages and keys of the whole server."""
    tables = replicas.held[shard].shard.tables
    return {
        "rows": [table.rows for table in tables],
        "bytes": [table.nbytes for table in tables],
        "pulls": replicas.pulls,
        "pushes": replicas.pushes,
        "keys_pushed": replicas.keys_pushed,
    }, []


COMMANDS: Mapping[str, Callable[..., Result]] = {
    "model": _model,
    "create": _create,
    "route": _route,
    "drop": _drop,
    "settle": _settle,
    "expire": _expire,
    "snapshot": _snapshot,
    "checkpoint": _checkpoint,
    "export": _export,
    "result": _result,
    "take out": _take_out,
    "take in": _take_in,
    "stats": _stats,
    "waiting": _waiting,
}
