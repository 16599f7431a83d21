"""Where the events come from: one keyed stream of packed events, and rejected records.

The watermark of files is made from what was read in the order of the plan, that of Kafka in the
source, per partition (see docs/architecture.md).
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pyflink.common import Types
from pyflink.datastream import DataStream
from pyflink.datastream.data_stream import KeyedStream
from pyflink.java_gateway import get_gateway
from rich.console import Console

from jobs.pipeline import archive_plan, archive_source, file_plan, file_source, record_format
from jobs.pipeline.config import (
    ArchiveSource,
    FilesSource,
    KafkaSource,
    LabelSilenceSection,
    NamedSource,
    Pipeline,
    SourcesSection,
)
from jobs.pipeline.decoding import decode_settings as decode_settings
from jobs.pipeline.kafka_options import DISCOVERY_TAKES_MS, table_options, watermark_lag
from jobs.pipeline.kafka_properties import KAFKA_PACKAGE, SHADED_PACKAGE
from schemas import sql
from schemas.events import BEACON_KEY, beacon_head
from schemas.formats import framing
from udfs.core import decode_batches
from udfs.core.decode_batches import DecodeRecords
from udfs.core.decode_settings import DecodeSettings
from udfs.operators import batches, side_outputs
from udfs.operators import jvm as jvm_operators
from udfs.operators.batches import Limits
from udfs.operators.side_outputs import SideOutput

#: Longer than any stream, and small enough to be taken from a time without an overflow.
_WITHOUT_END_MS = 2**62


@dataclass(frozen=True)
class Events:
    """The streams that the join takes. `keyed`: packed events by join key."""

    keyed: Any
    rejected: Any


def read(pipeline: Pipeline, env: Any, tables: Any, *, lasting: bool = False) -> Events:
    """The sources of a pipeline. Raises ConfigError when there is nothing to read.

    `lasting`: the plan of reading files lies beside the checkpoints, where a restored job finds it.
    """
    sources = pipeline.sources
    settings = decode_settings(pipeline, beacon_keys(env))
    # all are of one type
    if isinstance(sources.each[0].source, FilesSource):
        folder = pipeline.checkpoints if lasting else tempfile.mkdtemp(prefix="sample-stitch-")
        planned = file_plan.of_pipeline(pipeline)
        _warn(planned.warnings)
        plan, readers = file_source.written(planned, folder), pipeline.runtime.file_readers
        return _files(plan, readers, settings, env)
    limits = Limits(int(pipeline.runtime.batch_delay), steps=64)
    if isinstance(sources.each[0].source, ArchiveSource):
        archived = archive_plan.plan(sources, pipeline.object_storage)
        return _archive(sources, archived, settings, env, limits)
    return _union([_kafka(named, settings, tables, limits) for named in sources.each])


def beacon_keys(env: Any) -> tuple[str, ...]:
    """One key for each subtask of the join, by Flink's own assignment of keys."""
    jvm = get_gateway().jvm
    assign = jvm.org.apache.flink.runtime.state.KeyGroupRangeAssignment.assignKeyToParallelOperator
    parallelism = env.get_parallelism()
    found: dict[int, str] = {}
    for i in itertools.count():
        key = jvm.org.apache.flink.types.Row.withPositions(1)
        name = f"{BEACON_KEY}{i}"
        key.setField(0, name)
        found.setdefault(assign(key, env.get_max_parallelism(), parallelism), name)
        if len(found) == parallelism:
            break
    return tuple(found[subtask] for subtask in sorted(found))


def keyed(stream: DataStream, *, repartition: bool = True) -> KeyedStream:
    """By the first field, on the JVM: `DataStream.key_by` would call Python for every record.

    Without `repartition` the stream must come from a keyed one, with its records where they were.
    """
    jvm = get_gateway().jvm
    key_type = Types.ROW([Types.STRING()]).get_java_type_info()
    selector = jvm.KeyByKeySelector()
    if repartition:
        by_key = stream._j_data_stream.keyBy(selector, key_type)
    else:
        utils = jvm.org.apache.flink.streaming.api.datastream.DataStreamUtils
        by_key = utils.reinterpretAsKeyedStream(stream._j_data_stream, selector, key_type)
    return KeyedStream(by_key, batches.keyed_type(), stream)


def with_time_kept(
    events: KeyedStream, silence: LabelSilenceSection | None, sources: SourcesSection
) -> KeyedStream:
    """The same events, with the watermark that the join sees (udfs/jvm/KeepTime.java).

    This watermark survives a restart, waits for the action stream under rule 10, and ends when the
    input ends.
    """
    of_silence: tuple[str, ...] = ()
    if silence is not None:
        max_hold = _WITHOUT_END_MS if silence.max_hold is None else int(silence.max_hold)
        bound = max(int(n.source.out_of_orderness) for n in sources.of("actions"))
        times = (int(silence.after), bound, max_hold)
        of_silence = tuple(str(time) for time in times)
    kept = jvm_operators.transform(
        events,
        "KeepTime",
        batches.keyed_type().get_java_type_info(),
        BEACON_KEY,
        "\n".join(named.key for named in sources.each),
        *(beacon_head(named.key).decode("latin-1") for named in sources.each),
        *of_silence,
        uid="keep-time",
        needs=["OwnKeys", "Packed", "Moment"],
    )
    return keyed(kept, repartition=False)


def _files(plan: str, readers: int, settings: DecodeSettings, env: Any) -> Events:
    decoded = file_source.read(plan, readers, settings, env)
    events = keyed(decoded)
    if readers > 1:
        events = keyed(file_source.in_order(events, settings), repartition=False)
    return Events(events, decoded.get_side_output(side_outputs.REJECTED.tag()))


def _archive(
    sources: SourcesSection,
    planned: archive_plan.Plan,
    settings: DecodeSettings,
    env: Any,
    limits: Limits,
) -> Events:
    _warn(planned.warnings)
    decoded = archive_source.decoded(sources, planned, settings, env, limits)
    ordered = archive_source.in_order(keyed(decoded), settings)
    return Events(
        keyed(ordered, repartition=False), decoded.get_side_output(side_outputs.REJECTED.tag())
    )


def _warn(warnings: Iterable[str]) -> None:
    console = Console(stderr=True, highlight=False)
    for warning in warnings:
        console.print(f"join_samples: warning: {warning}", markup=False, soft_wrap=True)


def _kafka(
    named: NamedSource, settings: DecodeSettings, tables: Any, limits: Limits
) -> tuple[Any, Any]:
    source = named.source
    assert isinstance(source, KafkaSource)
    name = sql.identifier(f"{named.id}_records")
    options = table_options(source, kafka_package())
    # what names the schema may be in a header; of two with one key, the last one counts
    in_headers = record_format.names_schemas(source.format)
    headers = "\n            headers MAP<STRING, BYTES> METADATA VIRTUAL," if in_headers else ""
    schema_id = f", headers[{sql.literal(framing.HEADER)}] AS schema_id" if in_headers else ""
    tables.execute_sql(
        f"""CREATE TEMPORARY TABLE {name} (
            v BYTES,
            topic STRING METADATA VIRTUAL,
            part INT METADATA FROM 'partition' VIRTUAL,
            off BIGINT METADATA FROM 'offset' VIRTUAL,
            ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,{headers}
            WATERMARK FOR ts AS ts - {_interval(int(source.out_of_orderness) + 1)}
        ) WITH ({sql.options(options)})"""
    )
    decoded = batches.records(
        # the time attribute as a plain column
        batches.rows_of(
            tables,
            f"SELECT v, topic, part, off, CAST(ts AS TIMESTAMP_LTZ(3)) AS ts{schema_id}"
            f" FROM {name}",
            name=named.id,
            uid=named.id if settings.by_source else None,
        ),
        DecodeRecords(settings, named.key),
        uid=f"decode-{named.id}",
        columns="bsiltb" if in_headers else "bsilt",
        by_clock=False,
        counters=decode_batches.counters((named.stream,)),
        side=[SideOutput(table) for table in decode_batches.SIDE_OUTPUTS],
        limits=limits,
    )
    events = decoded
    if source.end == "never":
        events = jvm_operators.transform(
            decoded,
            "AwaitPartitions",
            batches.keyed_type().get_java_type_info(),
            str(watermark_lag(source)),
            str(DISCOVERY_TAKES_MS),
            uid=f"await-partitions-{named.id}",
        )
    return events, decoded.get_side_output(side_outputs.REJECTED.tag())


def kafka_package() -> str:
    """Where the connector on the class path has Kafka's classes: in its own package, or as is."""
    jvm = get_gateway().jvm
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    for package in (SHADED_PACKAGE, KAFKA_PACKAGE):
        name = package.replace(".", "/") + "clients/consumer/KafkaConsumer.class"
        if loader.getResource(name) is not None:
            return package
    return SHADED_PACKAGE


def _union(streams: list[tuple[Any, Any]]) -> Events:
    (events, *more_events), (rejected, *more_rejected) = zip(*streams, strict=True)
    return Events(keyed(events.union(*more_events)), rejected.union(*more_rejected))


def _interval(ms: int) -> str:
    """As SQL writes it; up to 99 days."""
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"INTERVAL '{days} {hours:02}:{minutes:02}:{seconds:02}.{ms:03}' DAY TO SECOND(3)"
