"""An archive on disk as `jobs.archive_events` may leave one, from records that a test names."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.archive import ARCHIVE
from schemas.events import EARLIEST_TIME, LATEST_TIME


class Kept(NamedTuple):
    """A record of an archive."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    value: bytes | None = None
    header_keys: tuple[str, ...] = ()
    header_values: tuple[bytes | None, ...] = ()


def hour_of(timestamp: int) -> str:
    """The folder of a record."""
    valid = EARLIEST_TIME <= timestamp < LATEST_TIME
    return time.strftime("dt=%Y-%m-%d/hr=%H", time.gmtime(timestamp / 1000 if valid else 0))


def write_file(file: Path, records: Iterable[Kept]) -> None:
    """These records, in this order."""
    rows = [{"timestamp_type": "CreateTime", **r._asdict()} for r in records]
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=ARCHIVE), file, compression="zstd")


def write(folder: Path, records: Sequence[Kept], *, seed: int = 0, complete: bool = True) -> None:
    """A stream's folder. `records`: of each partition in the order of their offsets.

    The records of an hour come in several files of uneven size, those of a partition may be in any
    of them, and in some files a partition's later records stand before its earlier ones, as when
    files are merged.
    """
    choose = random.Random(seed)
    hours: dict[str, list[Kept]] = defaultdict(list)
    for record in records:
        hours[hour_of(record.timestamp)].append(record)
    for hour, all_of in hours.items():
        at = number = 0
        while at < len(all_of):
            some = all_of[at : at + choose.randrange(1, len(all_of) + 1)]
            at += len(some)
            if choose.random() < 0.5:
                cut = choose.randrange(len(some))
                some = some[cut:] + some[:cut]
            write_file(folder / hour / f"part-{number}.parquet", some)
            number += 1
        if complete:
            (folder / hour / "_SUCCESS").touch()
