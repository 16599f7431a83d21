"""The plan of reading an archive (docs/archive.md): for each partition, where its records lie.

The records of a partition are spread over hours by their timestamps, and those of several
partitions are in one file. A run is a range of rows of a file within which the offsets of one
partition rise. A partition is read by merging its runs by offset, and a run is opened when its
first offset is due.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from configuration.store_requests import AWS, ObjectStorageSection
from jobs.pipeline import archive_files
from jobs.pipeline.archive_files import ArchiveFile, Listing, archive_of
from jobs.pipeline.config import ArchiveSource, ConfigError, NamedSource, SourcesSection

_Ints = npt.NDArray[np.int64]
_HOUR_MS = 3_600_000
#: The hour (epoch ms) of records without a timestamp.
_NO_TIME = 0
_FILES_AT_ONCE = 8
#: About so many records lie between the fastest and the slowest reader when nothing is configured.
_RECORDS_OF_DRIFT = 50_000
_NAMED = 5


class Run(NamedTuple):
    """Rows `first_row` up to `end_row` of a file, below the folder of the source: those of one
    partition that are among them have the offsets `first` to `last`, rising.
    """

    file: str
    first_row: int
    end_row: int
    first: int
    last: int


@dataclass
class Partition:
    """A partition of a topic, which the source with the key `source` has. `runs` by their first
    offset; `records`: in all of them.
    """

    source: str
    topic: str
    partition: int
    runs: list[Run] = field(default_factory=list)
    records: int = 0

    @property
    def missing(self) -> int:
        """Offsets between the first and the last that are in no run."""
        return max(run.last for run in self.runs) - self.runs[0].first + 1 - self.records


@dataclass(frozen=True)
class Plan:
    """`partitions` in their order: by source, topic and number.

    `by_hour`: records by the hour of their timestamps (epoch ms). `files`, `bytes`: how many.
    `drift_ms`: how far (record timestamps) one reader may be ahead of the slowest. `warnings`: a
    line each.
    """

    partitions: list[Partition]
    by_hour: dict[int, int]
    files: int
    bytes: int
    drift_ms: int
    warnings: list[str]

    @property
    def records(self) -> int:
        """Of all sources."""
        return sum(self.by_hour.values())


def plan(sources: SourcesSection, store: ObjectStorageSection = AWS) -> Plan:
    """What to read of an archive. Looks into every file of the range, at the offsets only.

    `store`: the service of `s3://`. Raises ConfigError when there is nothing, an hour is not
    complete, or a file cannot be read.
    """
    found = [of_source(named, archive_files.listed(named, store)) for named in sources.each]
    warnings = [warning for each in found for warning in each.warnings]
    if not any(each.partitions for each in found):
        raise ConfigError("; ".join(warnings))
    by_hour = sum((Counter(each.by_hour) for each in found), Counter[int]())
    return Plan(
        [partition for each in found for partition in each.partitions],
        by_hour,
        sum(each.files for each in found),
        sum(each.bytes for each in found),
        _drift(archive_of(sources.each[0]), by_hour),
        warnings,
    )


def of_source(named: NamedSource, listing: Listing) -> Plan:
    """The same for one source, which may have nothing in a range.

    `listing`: what its folder has (`archive_files.listed`).
    """
    source = archive_of(named)
    warnings: list[str] = []
    files = _found(named.key, source, listing, warnings)
    by_hour = Counter[int]()
    partitions = _partitions(named.key, listing, files, by_hour)
    if source.range_ms == (None, None):
        warnings += _gaps(named.key, partitions)
    size = sum(file.size for file in files)
    return Plan(partitions, by_hour, len(files), size, _drift(source, by_hour), warnings)


def _found(
    name: str, source: ArchiveSource, listing: Listing, warnings: list[str]
) -> list[ArchiveFile]:
    """The files of a source in its range, by name. Raises ConfigError."""
    key, folder = f"sources.{name}", listing.folder
    begin, end = source.range_ms
    whole = begin is None and end is None
    files = [
        file
        for file in listing.files
        if whole
        or (file.hour != _NO_TIME and (begin or file.hour) <= file.hour < (end or file.hour + 1))
    ]
    if not files and whole:
        raise ConfigError(f"{key}.path: no archived records in {folder}")
    if not files:
        # an hour without an action is no error
        warnings.append(f"{key}: no archived records in {folder} from `from` to `to`")
    open_hours = sorted({file.hour for file in files} - listing.complete)
    if open_hours:
        text = (
            f"{key}: {len(open_hours)} {'hour is' if len(open_hours) == 1 else 'hours are'} not"
            f" complete (no _SUCCESS): {_named(map(_hour, open_hours))}"
        )
        if source.incomplete == "refuse":
            raise ConfigError(
                f"{text}. Wait for the archiving job, leave them out with {key}.to, or set"
                f' {key}.incomplete = "read"'
            )
        warnings.append(f"{text}. Records that come to them later are not read")
    return files


def _partitions(
    key: str, listing: Listing, files: list[ArchiveFile], by_hour: Counter[int]
) -> list[Partition]:
    found: dict[tuple[str, int], Partition] = {}

    def look(file: ArchiveFile) -> list[tuple[str, int, int, Run]]:
        try:
            with listing.open(file.name) as data:
                return list(_runs(file.name, data))
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(
                f"sources.{key}.path: {listing.folder}/{file.name}: {error}"
            ) from None

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        for file, runs in zip(files, pool.map(look, files), strict=True):
            for topic, number, records, run in runs:
                by_hour[file.hour] += records
                partition = found.setdefault((topic, number), Partition(key, topic, number))
                partition.runs.append(run)
                partition.records += records
    for partition in found.values():
        partition.runs.sort(key=lambda run: (run.first, run.file, run.first_row))
    return [found[place] for place in sorted(found)]


def _runs(name: str, data: Any) -> Iterator[tuple[str, int, int, Run]]:
    """Topic, partition, number of records, and the run, for each run of a file."""
    table = pq.ParquetFile(data).read(columns=["topic", "partition", "offset"], use_threads=False)
    if not table.num_rows:
        return
    topics = table["topic"].combine_chunks().dictionary_encode()
    numbers: _Ints = table["partition"].to_numpy().astype(np.int64)
    offsets: _Ints = table["offset"].to_numpy()
    # a number for each topic and partition; rows stay in their order within one
    places: _Ints = topics.indices.to_numpy() * (numbers.max() + 1) + numbers
    order = np.argsort(places, kind="stable")
    places, at = places[order], offsets[order]
    cuts = np.flatnonzero((np.diff(places) != 0) | (np.diff(at) <= 0)) + 1
    for rows in np.split(order, cuts):
        first, last = int(rows[0]), int(rows[-1])
        run = Run(name, first, last + 1, int(offsets[first]), int(offsets[last]))
        yield topics[first].as_py(), int(numbers[first]), len(rows), run


def _gaps(key: str, partitions: Iterable[Partition]) -> Iterator[str]:
    gaps = [p for p in partitions if p.missing > 0]
    if gaps:
        named = _named(f"{p.topic}[{p.partition}]: {p.missing:,}" for p in gaps)
        yield (
            f"sources.{key}: offsets are missing in the archive ({named}). Markers of"
            " transactions and compacted topics leave such gaps. If the topics have neither,"
            " records were lost before they were archived, or files were deleted"
        )


def _drift(source: ArchiveSource, by_hour: Counter[int]) -> int:
    """So that about `_RECORDS_OF_DRIFT` of the fullest hour lie within it; at least a second."""
    if source.max_drift is not None:
        return int(source.max_drift)
    return max(1000, _HOUR_MS * _RECORDS_OF_DRIFT // max(by_hour.values(), default=1))


def _hour(time: int) -> str:
    return str(np.datetime64(time, "ms").astype("datetime64[h]"))


def _named(all_of: Iterable[str]) -> str:
    """The first few, and whether there are more."""
    listed = list(itertools.islice(all_of, _NAMED + 1))
    return ", ".join(listed[:_NAMED]) + (", …" if len(listed) > _NAMED else "")
