"""The input's files cut by time. Spark reads whole files, so one file a stream would be one
micro-batch: nothing would come out before everything has been read.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import msgspec


class _Event(msgspec.Struct):
    event_time: int


def cut(source: Path, target: Path, requests: int) -> Callable[[bytes], None]:
    """Write ``<target>/features`` and ``<target>/actions``, both cut at the same times.

    Args:
        source: has ``features/part.jsonl`` and ``actions/part.jsonl``, in the order of time.
        target: a new folder.
        requests: in each file.

    Returns:
        What adds a last file of one record to both.
    """
    starts: list[int] = []
    for stream in ("features", "actions"):
        (target / stream).mkdir(parents=True)
        with (source / stream / "part.jsonl").open("rb") as lines:
            if stream == "features":
                parts = list(_by_number(lines, requests))
                starts = [_time(part[0]) for part in parts]
            else:
                parts = _by_time(lines, starts)
        for number, part in enumerate(parts):
            _put(target / stream, number, part)

    def end(record: bytes) -> None:
        for stream in ("features", "actions"):
            _put(target / stream, len(starts), [record + b"\n"])

    return end


def _by_number(lines: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    remaining = iter(lines)
    while part := list(islice(remaining, size)):
        yield part


def _by_time(lines: Iterable[bytes], starts: list[int]) -> list[list[bytes]]:
    """The lines between each start and the next; the first also has what is earlier."""
    parts: list[list[bytes]] = [[] for _ in starts]
    for line in lines:
        parts[max(0, bisect_right(starts, _time(line)) - 1)].append(line)
    return parts


def _time(line: bytes) -> int:
    return _decode(line).event_time


_decode = msgspec.json.Decoder(_Event).decode


def _put(folder: Path, number: int, lines: list[bytes]) -> None:
    """Spark reads files in the order of their times, and ignores names that begin with a dot."""
    hidden = folder / f".{number:04}"
    hidden.write_bytes(b"".join(lines))
    os.utime(hidden, (_FIRST_S + number, _FIRST_S + number))
    hidden.rename(folder / f"{number:04}.jsonl")


#: The time of the first file, seconds since the epoch: in the past.
_FIRST_S = 1_700_000_000
