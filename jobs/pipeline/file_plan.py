"""The plan of reading files: both streams cut into chunks, in one fixed order.

Within a stream files go in the order of their paths. Between the streams the next chunk is the one
whose first readable time is least (features first, at equal times), so that the two stay close
together in event time, and little has to be held.
"""

from __future__ import annotations

import glob
import heapq
from collections.abc import Iterator
from pathlib import Path

from jobs.pipeline.config import ConfigError
from schemas.decoding import readable_time
from schemas.events import STREAMS, Stream
from udfs.core.decode_settings import Chunk

#: Bytes of a chunk, rounded up to whole lines. Flink can take a checkpoint between two chunks.
CHUNK_BYTES = 256 * 1024


def find(stream: Stream, path: str) -> list[Path]:
    """The `.jsonl` files of a folder, or what a glob finds, in order.

    Raises ConfigError when there are none.
    """
    place = Path(path)
    if place.is_dir():
        found = sorted(place.rglob("*.jsonl"))
    else:
        found = sorted(Path(name) for name in glob.glob(path, recursive=True))  # noqa: PTH207
        found = [file for file in found if file.is_file()]
    if not found:
        raise ConfigError(f"sources.{stream}.path: no .jsonl files in {path}")
    return found


def plan(features: str, actions: str, chunk_bytes: int = CHUNK_BYTES) -> list[Chunk]:
    """All chunks in the order in which they are read. Raises ConfigError.

    A chunk without any readable time goes right after the one before it.
    """

    def timed(stream: Stream, path: str) -> Iterator[tuple[int, int, int, Chunk]]:
        latest = 0
        for i, chunk in enumerate(_chunks(stream, find(stream, path), chunk_bytes)):
            first = _first_time(chunk)
            # never before its predecessor, so that merging keeps the order of the stream
            latest = max(latest, first if first is not None else latest)
            yield latest, STREAMS.index(stream), i, chunk

    merged = heapq.merge(timed("features", features), timed("actions", actions))
    return [chunk for *_, chunk in merged]


def _chunks(stream: Stream, files: list[Path], chunk_bytes: int) -> Iterator[Chunk]:
    for path in files:
        size = path.stat().st_size
        start = 0
        with path.open("rb") as file:
            while start < size:
                file.seek(min(size, start + chunk_bytes - 1))
                file.readline()
                end = file.tell()
                yield Chunk(stream, str(path), start, end)
                start = end


def _first_time(chunk: Chunk) -> int | None:
    """Of the first line that has a time; a broken record has none."""
    with Path(chunk.path).open("rb") as file:
        file.seek(chunk.start)
        while file.tell() < chunk.end:
            time = readable_time(file.readline())
            if time is not None:
                return time
    return None
