"""The sources, read again for an audit: every record with its origin, and how far time has come."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configuration.store_requests import AWS, ObjectStorageSection
from jobs.pipeline import archive_files, archive_plan
from jobs.pipeline.config import (
    ArchiveSource,
    ConfigError,
    FilesSource,
    KafkaSource,
    NamedSource,
)
from jobs.pipeline.file_plan import find
from jobs.pipeline.kafka_consumer import connect, refused
from jobs.pipeline.kafka_consumer import partitions as partitions_of
from schemas import event_files
from schemas.events import Origin
from schemas.formats.framing import Framed

_TIMEOUT_MS = 10_000
#: Without a record for so long a topic is taken to be unreachable (there are still some to come).
_SILENT_S = 60


#: Of a file of an archive: where a record was, and what is read of it.
_PLACE = ["topic", "partition"]
_READ = ["offset", "timestamp", "value", "header_keys", "header_values"]

#: A topic, and the number of a partition.
Place = tuple[str, int]


class Record(NamedTuple):
    """A record as it was read; `time` is Kafka's timestamp (epoch ms), None for files."""

    raw: bytes
    origin: Origin
    time: int | None


def place_of(origin: Origin) -> Place | None:
    """Where a record of Kafka's lies; None for one of a file."""
    return None if origin.partition is None else (origin.name, origin.partition)


@dataclass
class Reached:
    """How far a source has come, as rule 11 counts it, and what must have been read at what time.

    `latest`: the greatest time of a good record, in the steps in which the job announces it.
    `is_one_log`: what `is_one_log` says. `_rises`: by topic and partition, each (offset, timestamp)
    that was greater than all before it.
    """

    out_of_orderness: int
    latest: int | None = None
    is_one_log: bool = False
    _rises: dict[Place, list[tuple[int, int]]] = field(default_factory=dict)

    def good(self, event_time: int, record: Record) -> None:
        """A record that could be decoded was read; `event_time` in epoch ms."""
        time = event_time
        if record.time is not None:
            # the steps of the job's progress beacons
            time = record.time - record.time % max(1, min(self.out_of_orderness, 1000))
        self.latest = time if self.latest is None else max(self.latest, time)

    def read(self, record: Record) -> None:
        """Any record was read."""
        place = place_of(record.origin)
        if record.time is None or place is None:
            return
        rises = self._rises.setdefault(place, [])
        if not rises or record.time > rises[-1][1]:
            rises.append((record.origin.offset, record.time))

    def watermark_at_most(self) -> float:
        """What a watermark can have reached before the next record (epoch ms, or infinite)."""
        if not self.is_one_log:
            return math.inf
        return -math.inf if self.latest is None else self.latest - self.out_of_orderness

    def read_up_to(self, watermark: int) -> dict[Place, int]:
        """By topic and partition, the last offset that a job had read for certain when its
        watermark was there. Partitions that hold nothing up (they were idle) are not in it.
        """
        found: dict[Place, int] = {}
        for place, rises in self._rises.items():
            beyond = (o for o, time in rises if time > watermark + self.out_of_orderness)
            last = next(beyond, None)
            if last is not None:
                found[place] = last
        return found


def is_one_log(named: NamedSource) -> bool:
    """Whether the job reads the records of a source in the order in which `records` gives them: of
    files, when they lie in one folder. Then the watermark follows the records before each.
    """
    if not isinstance(named.source, FilesSource):
        return False
    return len({path.parent for path in find(named.key, named.source.path)}) == 1


def records(
    named: NamedSource, notes: list[str], store: ObjectStorageSection = AWS
) -> Iterator[Record]:
    """All records of a source: of files in the order of their paths, of Kafka and of an archive
    partition by partition in order, from the configured start to the end as it is now.

    `store`: the service of an archive on `s3://`. Raises ConfigError when it cannot be read.
    """
    source = named.source
    if isinstance(source, FilesSource):
        return _of_files(named.key, source)
    if isinstance(source, ArchiveSource):
        return _of_archive(named, notes, store)
    return _of_kafka(named.key, source, notes)


def _of_files(key: str, source: FilesSource) -> Iterator[Record]:
    for path in find(key, source.path):
        try:
            for offset, raw in event_files.lines(path):
                yield Record(raw, Origin(str(path), None, offset), None)
        except event_files.EventFileError as error:
            raise ConfigError(f"sources.{key}.path: {error}") from None


def _of_archive(
    named: NamedSource, notes: list[str], store: ObjectStorageSection
) -> Iterator[Record]:
    listing = archive_files.listed(named, store)
    planned = archive_plan.of_source(named, listing)
    notes += planned.warnings
    for partition in planned.partitions:
        place = (pc.field("topic") == partition.topic) & (
            pc.field("partition") == partition.partition
        )
        tables = []
        for name in sorted({run.file for run in partition.runs}):
            with listing.open(name) as file:
                tables.append(pq.read_table(file, columns=[*_PLACE, *_READ]).filter(place))
        rows = pa.concat_tables(tables).select(_READ)
        for batch in rows.sort_by("offset").to_batches():
            columns = (column.to_pylist() for column in batch)
            for offset, time, value, keys, values in zip(*columns, strict=True):
                yield Record(
                    Framed.among(value or b"", zip(keys or (), values or (), strict=True)),
                    Origin(partition.topic, partition.partition, offset),
                    time,
                )


def _of_kafka(key: str, source: KafkaSource, notes: list[str]) -> Iterator[Record]:
    from kafka.errors import KafkaError

    where = f"sources.{key}"
    if source.start in ("latest", "committed"):
        raise ConfigError(
            f"{where}.start: {source.start!r} does not say where the job began;"
            f" add --set {where}.start=<epoch ms>"
        )
    consumer = connect(
        key,
        source,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    try:
        partitions = partitions_of(source, consumer)
        consumer.assign(partitions)
        first, last = _span(consumer, partitions, source)
        gone = sum(o > 0 for o in consumer.beginning_offsets(partitions).values())
        if gone and source.start == "earliest":
            notes.append(
                f"{where}: {gone} partitions no longer begin at offset 0: what"
                " the job made of records that are deleted is surplus here."
            )
        for partition in partitions:
            yield from _of_partition(consumer, partition, first[partition], last[partition], where)
    except KafkaError as error:
        raise refused(key, source, error) from None
    finally:
        consumer.close()


def _span(
    consumer: Any, partitions: list[Any], source: KafkaSource
) -> tuple[dict[Any, int], dict[Any, int]]:
    """The first offset, and the one after the last, of every partition."""
    last = consumer.end_offsets(partitions)
    first = consumer.beginning_offsets(partitions)

    def at(time: int) -> dict[Any, int]:
        found = consumer.offsets_for_times(dict.fromkeys(partitions, time))
        return {p: last[p] if found[p] is None else found[p].offset for p in partitions}

    if isinstance(source.start, int):
        first = at(source.start)
    if isinstance(source.end, int):
        last = at(source.end)
    return first, last


def _of_partition(
    consumer: Any, partition: Any, start: int, end: int, where: str
) -> Iterator[Record]:
    if start >= end:
        return
    consumer.assign([partition])
    consumer.seek(partition, start)
    silent_polls = 0
    # by position, for the last offsets of a topic may be markers of transactions, and no records
    while consumer.position(partition) < end:
        fetched = consumer.poll(timeout_ms=1_000, max_records=2_000).get(partition, ())
        silent_polls = 0 if fetched else silent_polls + 1
        if silent_polls > _SILENT_S:
            raise ConfigError(f"{where}: {partition.topic}[{partition.partition}] gives no records")
        for message in fetched:
            if message.offset >= end:
                return
            origin = Origin(partition.topic, partition.partition, message.offset)
            value = Framed.among(message.value or b"", message.headers)
            yield Record(value, origin, message.timestamp)
