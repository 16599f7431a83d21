"""The plan of reading files: all sources cut into chunks, in an order that the files alone decide.

The files of one folder are one log, read in the order of their names, as a log that is rotated. The
logs of all sources are merged by time, so that those that run side by side (a folder per host) are
read side by side. The time of a chunk is that of its first record that has one. Where two are
equal, features go first (several sources of a stream in the order of the configuration), and then
the path decides.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from configuration import paths
from jobs.pipeline.config import ConfigError, FilesSource, Pipeline
from jobs.pipeline.record_times import TimeOf, times_of
from jobs.pipeline.source_checks import read_twice
from schemas import event_files
from schemas.event_files import EventFileError, readable
from schemas.events import Stream, stream_of
from udfs.core.decode_settings import Chunk

#: Bytes of a chunk (`event_files.cut`). Flink can take a checkpoint between two chunks.
CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Plan:
    """`chunks` in the order in which they are read. `warnings`: a line each."""

    chunks: list[Chunk]
    warnings: list[str]


@dataclass
class _Part:
    """A chunk before it has its place. `time`: see `_first_time`; `key`: what it is sorted by."""

    source: str
    folder: Path
    path: str
    start: int
    end: int
    time: int | None
    key: int = 0


def find(source: str, pattern: str) -> list[Path]:
    """The event files that a glob names, or that lie in the folders that it names, by path.

    `pattern` is what `configuration.paths.pattern_beside` makes of a configured path. In folders,
    at any depth, files count whose name `event_files.named_like_events`. Names that begin with `.`
    or `_` are passed over, as Hadoop and Spark do, unless the glob itself asks for them.
    `source`: the key of the source. Raises ConfigError when there are none, and for a name that is
    there and cannot be read.
    """
    key = f"sources.{source}.path"
    parts = Path(pattern).parts
    asked_for = [part for part in parts if part[0] in "._"]
    literal = next((i for i, part in enumerate(parts) if not paths.is_literal(part)), len(parts))

    def hidden(name: str) -> bool:
        return name[0] in "._" and not any(fnmatchcase(name, part) for part in asked_for)

    found: set[Path] = set()
    try:
        for name in glob.glob(pattern, recursive=True):  # noqa: PTH207
            place = Path(name)
            if any(map(hidden, place.parts[literal:])):
                continue
            found |= set(_walk(place, ())) if place.is_dir() else {place}
        for file in found:
            if not file.is_file():
                what = "a link to a file that is not there" if file.is_symlink() else "no file"
                raise ConfigError(f"{key}: {readable(file)} is {what}; remove it")
            try:
                str(file).encode()
            except UnicodeEncodeError:
                raise ConfigError(
                    f"{key}: the name {os.fsencode(file)!r} is not UTF-8; rename it"
                ) from None
    except EventFileError as error:
        raise ConfigError(f"{key}: {error}") from None
    except OSError as error:
        where = readable(error.filename or paths.shown(pattern))
        raise ConfigError(f"{key}: {where}: {error.strerror or error}") from None
    if not found:
        suffixes = ", ".join(event_files.SUFFIXES)
        raise ConfigError(
            f"{key}: no event files in {readable(paths.shown(pattern))} (in a folder, names count"
            f" that end in {suffixes}, or in one of these and .gz)"
        )
    return sorted(found)


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Linked folders are followed, but not into a folder that they lie in."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        listed = list(entries)
    for entry in listed:
        if entry.name[0] in "._":
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), (*above, here))
        elif event_files.named_like_events(entry.name):
            yield Path(entry.path)


def of_pipeline(pipeline: Pipeline) -> Plan:
    """The plan of a pipeline that reads files. Raises ConfigError for files that cannot be read."""
    found = []
    for named in pipeline.sources.each:
        assert isinstance(named.source, FilesSource)
        mappings = pipeline.seen_from(named).mappings
        found.append((named.key, named.source, times_of(mappings)[named.stream]))
    return plan(found)


def plan(
    sources: Sequence[tuple[str, FilesSource, TimeOf]], chunk_bytes: int = CHUNK_BYTES
) -> Plan:
    """All chunks of all sources. Raises ConfigError for files that cannot be read.

    `sources`: the key of each, the source, and how the time of a record is read.

    `Chunk.limit` is the least time at which a later chunk of another folder of the source begins.
    While the clock stays behind it, folders that run side by side are never late to each other.
    """
    parts: list[_Part] = []
    warnings: list[str] = []
    taken: dict[tuple[Stream, Path], str] = {}
    for key, source, time_of in sources:
        bound = int(source.out_of_orderness)
        back: list[tuple[int, _Part]] = []
        try:
            logs: dict[Path, list[Path]] = {}
            for path in find(key, source.path):
                other = taken.setdefault((stream_of(key), path), key)
                if other != key:
                    raise ConfigError(f"sources.{key}.path: {read_twice(str(path), other)}")
                logs.setdefault(path.parent, []).append(path)
            for folder, files in logs.items():
                cuts = [
                    _Part(
                        key,
                        folder,
                        str(path),
                        start,
                        end,
                        _first_time(lines, time_of, source.not_after),
                    )
                    for path in files
                    for start, end, lines in event_files.cut(path, chunk_bytes)
                ]
                _place(cuts)
                back += _further_back(cuts, bound)
                parts += cuts
        except EventFileError as error:
            raise ConfigError(f"sources.{key}.path: {error}") from None
        if back:
            warnings.append(_warning(key, bound, back))
    # stable: the chunks of a log have keys that never fall, and are in their order already
    order = {key: n for n, (key, _, _) in enumerate(sources)}
    parts.sort(key=lambda part: (part.key, order[part.source], part.folder))
    return Plan(_limited(parts), warnings)


def _first_time(lines: Iterator[bytes], time_of: TimeOf, not_after: int | None) -> int | None:
    """Of the first record that has a time, and is not rejected for it."""
    for line in lines:
        time = time_of(line.removeprefix(b"\xef\xbb\xbf"))
        if time is not None and (not_after is None or time <= not_after):
            return time
    return None


def _place(parts: Sequence[_Part]) -> None:
    """Give the chunks of one log their keys: the greatest time at which it or one before begins.

    So keys never fall, and what comes late in a log is read where it stands. A chunk without any
    time goes right after the one before it; those at the start take the first time there is.
    """
    latest = next((part.time for part in parts if part.time is not None), 0)
    for part in parts:
        if part.time is not None:
            latest = max(latest, part.time)
        part.key = latest


def _further_back(parts: Sequence[_Part], bound: int) -> Iterator[tuple[int, _Part]]:
    """Chunks that begin more than `bound` behind what their log had shown before, and by what."""
    latest: int | None = None
    for part in parts:
        if part.time is None:
            continue
        if latest is not None and part.time < latest - bound:
            yield latest - part.time, part
        latest = part.time if latest is None else max(latest, part.time)


def _warning(source: str, bound: int, back: Sequence[tuple[int, _Part]]) -> str:
    by, worst = max(back, key=lambda pair: pair[0])
    files = len({part.path for _, part in back})
    return (
        f"sources.{source}: {files} {'file goes' if files == 1 else 'files go'} back in time by"
        f" more than out_of_orderness ({_about(bound)}), up to {_about(by)} in"
        f" {readable(worst.path)} at offset {worst.start}. Records there may come too late for the"
        " join: sort the files of a folder by time, put logs that run side by side (one per host)"
        f" into folders of their own, or raise sources.{source}.out_of_orderness"
    )


def _about(ms: int) -> str:
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if ms >= size:
            return f"{ms / size:.4g} {unit}"
    return f"{ms} ms"


def _limited(parts: Sequence[_Part]) -> list[Chunk]:
    """The chunks with their limits, found from the end."""
    chunks: list[Chunk] = []
    following: dict[str, _Part] = {}
    limits: dict[str, int | None] = {}
    for part in reversed(parts):
        after = following.get(part.source)
        if after is not None and after.folder != part.folder:
            limits[part.source] = after.key
        following[part.source] = part
        limit = limits.get(part.source)
        chunks.append(Chunk(part.source, part.path, part.start, part.end, limit))
    chunks.reverse()
    return chunks
