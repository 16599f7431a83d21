"""What the coordinator tells servers to do, between batches.

Each takes the host, the shard, the frames behind the header, and named arguments; and gives what is
answered: something for msgpack, and frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from trainer.checkpoint import write_shard
from trainer.server.ring import ARCS
from trainer.server.shard import Shard
from trainer.server.wire import parts_from_bytes, parts_to_bytes
from trainer.serving.files import write_tables
from trainer.spec import ModelSpec

if TYPE_CHECKING:
    from trainer.server.host import Host

Result = tuple[Any, list[Any]]


def _create(
    host: Host,
    shard: int,
    frames: Sequence[Any],
    *,
    contributions: int | None,
    has_dense: bool,
    lineage: int = 0,
) -> Result:
    """A new shard; with a frame: as a copy of those parts."""
    from trainer.server.host import Copy

    assert host.spec is not None
    made = Shard(host.spec, contributions=contributions, has_dense=has_dense)
    if frames:
        made.load(parts_from_bytes(frames[0]))
    host.copies[shard] = Copy(made, primary=False, lineage=lineage)
    return None, []


def _model(host: Host, shard: int, frames: Sequence[Any]) -> Result:
    """Which model it is; everything that was here goes."""
    host.spec = msgspec.msgpack.decode(frames[0], type=ModelSpec)
    host.copies.clear()
    return None, []


def _route(
    host: Host, shard: int, frames: Sequence[Any], *, epoch: int, backups: Mapping[int, int | None]
) -> Result:
    """A new epoch. `backups`: the shards that are primary here, and where their backup is."""
    host.epoch = epoch
    for number, copy in host.copies.items():
        copy.primary = number in backups
        copy.backup = backups.get(number)
    return None, []


def _drop(host: Host, shard: int, frames: Sequence[Any]) -> Result:
    host.copies.pop(shard, None)
    return None, []


def _settle(host: Host, shard: int, frames: Sequence[Any], *, step: int) -> Result:
    """Everything before `step` is complete (BSP)."""
    host.copies[shard].shard.settle(step)
    return None, []


def _expire(host: Host, shard: int, frames: Sequence[Any], *, now: int) -> Result:
    return host.copies[shard].shard.expire(now), []


def _parts(host: Host, shard: int, frames: Sequence[Any]) -> Result:
    """A copy of the shard, as bytes."""
    return None, [parts_to_bytes(host.copies[shard].shard.parts())]


def _checkpoint(host: Host, shard: int, frames: Sequence[Any], *, folder: str) -> Result:
    """The cut is a copy in memory; it is written while training goes on."""
    assert host.spec is not None
    parts, spec = host.copies[shard].shard.parts(), host.spec
    name = f"checkpoint {shard}"
    host.run_later(
        name, lambda: [msgspec.to_builtins(write_shard(Path(folder), shard, parts, spec))]
    )
    return parts.rows, []


def _export(
    host: Host, shard: int, frames: Sequence[Any], *, folder: str, number: int, everything: bool
) -> Result:
    """What changed since the last export (or all); written while training goes on."""
    copy, spec = host.copies[shard], host.spec
    changed = [table.changed(everything=everything) for table in copy.shard.tables]
    names = [table.spec.name for table in copy.shard.tables]
    dense = [] if copy.shard.dense is None else [copy.shard.dense.values.tobytes()]
    if copy.primary:
        name = f"export {shard}"
        host.run_later(
            name,
            lambda: msgspec.to_builtins(
                write_tables(Path(folder), number, shard, names, changed, spec)
            ),
        )
    return sum(len(keys) for keys, _, _ in changed), dense


def _result(host: Host, shard: int, frames: Sequence[Any], *, name: str) -> Result:
    """What became of work that outlasted its command; None while it goes on."""
    return host.results.get(f"{name} {shard}"), []


def _take_out(host: Host, shard: int, frames: Sequence[Any]) -> Result:
    """What is here of the arcs in the frame (a boolean each); it is no longer here then."""
    moved = host.copies[shard].shard.take_out(np.frombuffer(frames[0], np.bool_, ARCS))
    return moved.rows, [parts_to_bytes(moved)]


def _take_in(host: Host, shard: int, frames: Sequence[Any]) -> Result:
    """What another shard took out."""
    host.copies[shard].shard.take_in(parts_from_bytes(frames[0]))
    return None, []


def _stats(host: Host, shard: int, frames: Sequence[Any]) -> Result:
    tables = host.copies[shard].shard.tables
    return {
        "rows": [table.rows for table in tables],
        "bytes": [table.nbytes for table in tables],
        "pulls": host.pulls,
        "pushes": host.pushes,
        "keys_pushed": host.keys_moved,
    }, []


COMMANDS: Mapping[str, Callable[..., Result]] = {
    "model": _model,
    "create": _create,
    "route": _route,
    "drop": _drop,
    "settle": _settle,
    "expire": _expire,
    "parts": _parts,
    "checkpoint": _checkpoint,
    "export": _export,
    "result": _result,
    "take out": _take_out,
    "take in": _take_in,
    "stats": _stats,
}
