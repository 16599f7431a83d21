"""Where a job goes on from: finding a complete checkpoint or savepoint.

Flink lays checkpoints down as `<folder>/<job id>/chk-<n>/` and savepoints as
`<folder>/savepoint-<first 6 of the job id>-<random>/`. Either is complete when its `_metadata` is
there; Flink writes that file last.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from jobs.pipeline import places
from jobs.pipeline.config import ConfigError

_METADATA = "_metadata"
#: Of a job's folder: files that checkpoints share. No snapshot is in them.
_SHARED = ("shared", "taskowned")
#: Told the bytes of a `_metadata` and its place.
Readable = Callable[[bytes, str], bool]
#: A folder of checkpoints, the jobs in it, their checkpoints.
_DEPTH = 3


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint or savepoint that is complete. `made_ms`: epoch ms."""

    place: str
    made_ms: int

    def of_job(self, job: str) -> bool:
        """Whether the job with this id (32 hex digits) has made it, as far as the path says."""
        *_, above, name = self.place.rstrip("/").split("/")
        return above == job or name.startswith(f"savepoint-{job[:6]}-")


def latest(
    folder: str, jobs: Collection[str] = (), readable: Readable | None = None
) -> Snapshot | None:
    """The newest complete snapshot below a folder; of these jobs only, if any are named.

    `readable` tells whether the bytes of a `_metadata` are whole; Flink itself does when it is
    absent, which needs a running JVM. Raises PlaceError.
    """
    found = [s for s in snapshots(folder) if not jobs or any(s.of_job(job) for job in jobs)]
    for snapshot in sorted(found, key=lambda s: (s.made_ms, _number(s.place)), reverse=True):
        metadata = places.below(snapshot.place, _METADATA)
        data = places.read(metadata)
        # a crash of the machine may leave a file that is cut off
        if data and (readable or _flink_reads)(data, metadata):
            return snapshot
    return None


def snapshots(folder: str, depth: int = _DEPTH) -> Iterator[Snapshot]:
    """All snapshots in a folder that have a `_metadata`, or the folder itself if it is one.

    Raises PlaceError.
    """
    entries = places.entries(folder)
    for entry in entries:
        if entry.name == _METADATA and not entry.is_folder:
            yield Snapshot(folder, entry.modified_ms)
            return
    for entry in entries if depth else ():
        if entry.is_folder and entry.name not in _SHARED:
            yield from snapshots(entry.place, depth - 1)


def find(
    asked: str, folder: str, jobs: Collection[str] = (), readable: Readable | None = None
) -> str:
    """The place of the snapshot that `--restore` asks for.

    Args:
        asked: "latest", or a place: a snapshot, its `_metadata`, or a folder with snapshots in it.
        folder: where the job's own snapshots lie.
        jobs: the ids of the jobs that have written the output; empty if that is not known.
        readable: as for `latest`.

    Raises:
        ConfigError: if there is no complete snapshot.
        PlaceError: if the place cannot be looked at from here.
    """
    if asked == "latest":
        found = latest(folder, jobs, readable)
        if found is None:
            other = latest(folder, (), readable) if jobs else None
            hint = (
                f"those that are there were not made by a job that wrote this output, such as "
                f"{other.place}; name one with --restore PATH if you know better"
                if other is not None
                else "start without --restore, or name another with --restore PATH"
            )
            raise ConfigError(
                f"--restore latest: no complete checkpoint or savepoint in {folder}; {hint}"
            )
        return found.place
    # Flink writes file:/path, with one slash
    place = places.from_uri(asked).rstrip("/").removesuffix(f"/{_METADATA}")
    found = latest(place, (), readable)
    if found is None:
        raise ConfigError(
            f"--restore {asked}: no complete checkpoint or savepoint (a folder with a file "
            f"{_METADATA}) is there"
        )
    return found.place


def checkpoint_number(place: str) -> int | None:
    """The number of a snapshot among those of its job and of the jobs that it went on from.

    None when its `_metadata` cannot be read. Of a savepoint it needs a running JVM. Raises
    PlaceError.
    """
    metadata = places.below(place, _METADATA)
    return _number(place) or _flink_number(places.read(metadata) or b"", metadata)


def operators(place: str) -> list[str]:
    """The names of the operators that a snapshot has state of, as far as Flink can read it.

    Needs a running JVM. Raises PlaceError.
    """
    metadata = places.below(place, _METADATA)
    loaded = _loaded(places.read(metadata) or b"", metadata)
    if loaded is None:
        return []
    return [str(one.getOperatorName().orElse("")) for one in loaded.getOperatorStates().iterator()]


def _number(place: str) -> int:
    """Of a checkpoint, by its path; 0 of a savepoint."""
    name = place.rstrip("/").rsplit("/", 1)[-1]
    return int(name[4:]) if name.startswith("chk-") and name[4:].isdigit() else 0


def _flink_reads(data: bytes, metadata: str) -> bool:
    """Whether Flink can read a `_metadata`."""
    return _flink_number(data, metadata) is not None


def _flink_number(data: bytes, metadata: str) -> int | None:
    """The number in a `_metadata`; None if Flink cannot read it."""
    loaded = _loaded(data, metadata)
    return None if loaded is None else int(loaded.getCheckpointId())


def _loaded(data: bytes, metadata: str) -> Any:
    """Flink's `CheckpointMetadata`; None if it cannot read these bytes."""
    from pyflink.java_gateway import get_gateway

    jvm = get_gateway().jvm
    stream = jvm.java.io.DataInputStream(jvm.java.io.ByteArrayInputStream(data))
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    try:
        checkpoints = jvm.org.apache.flink.runtime.checkpoint.Checkpoints
        return checkpoints.loadCheckpointMetadata(stream, loader, metadata)
    except Exception:
        return None
