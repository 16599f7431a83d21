"""Where the events come from: one keyed stream of packed events, and rejected records.

The watermark of files is made from what the one reader read, that of Kafka in the source, per
partition (see docs/architecture.md).
"""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from pyflink.common import Types
from pyflink.datastream import DataStream, OutputTag
from pyflink.datastream.data_stream import KeyedStream
from pyflink.java_gateway import get_gateway
from pyflink.table import Schema

from jobs.config import FilesSource, KafkaSource, Pipeline
from jobs.files import plan
from schemas.events import Stream
from udfs.decode_function import (
    REJECTED_TAG,
    DecodeRecords,
    DecodeSettings,
    ReadFiles,
    StreamSettings,
    rejected_type,
)


@dataclass(frozen=True)
class Events:
    """The streams that the join takes. `keyed`: packed events by join key."""

    keyed: Any
    rejected: Any


def read(pipeline: Pipeline, env: Any, tables: Any) -> Events:
    """The sources of a pipeline. Raises ConfigError when there is nothing to read."""
    sources = pipeline.sources
    settings = decode_settings(pipeline, beacon_keys(env))
    if isinstance(sources.features, FilesSource) and isinstance(sources.actions, FilesSource):
        return _files(sources.features, sources.actions, settings, tables)
    assert isinstance(sources.features, KafkaSource)
    assert isinstance(sources.actions, KafkaSource)
    streams: tuple[tuple[Stream, KafkaSource], ...] = (
        ("features", sources.features),
        ("actions", sources.actions),
    )
    return _union([_kafka(name, source, settings, tables) for name, source in streams])


def decode_settings(pipeline: Pipeline, beacon_keys: tuple[str, ...]) -> DecodeSettings:
    def of(source: FilesSource | KafkaSource) -> StreamSettings:
        return StreamSettings(
            int(source.out_of_orderness),
            source.max_record_bytes,
            not_after=source.not_after if isinstance(source, FilesSource) else None,
            max_future_ms=int(source.max_future) if isinstance(source, KafkaSource) else None,
        )

    return DecodeSettings(
        pipeline.schema,
        pipeline.kinds,
        pipeline.join.key,
        pipeline.join.unknown_actions == "reject",
        {"features": of(pipeline.sources.features), "actions": of(pipeline.sources.actions)},
        beacon_keys,
    )


def beacon_keys(env: Any) -> tuple[str, ...]:
    """One key for each subtask of the join, by Flink's own assignment of keys."""
    jvm = get_gateway().jvm
    assign = jvm.org.apache.flink.runtime.state.KeyGroupRangeAssignment.assignKeyToParallelOperator
    parallelism = env.get_parallelism()
    found: dict[int, str] = {}
    for i in itertools.count():
        key = jvm.org.apache.flink.types.Row.withPositions(1)
        name = f"\x00progress-{i}"
        key.setField(0, name)
        found.setdefault(assign(key, env.get_max_parallelism(), parallelism), name)
        if len(found) == parallelism:
            break
    return tuple(found[subtask] for subtask in sorted(found))


def keyed_type() -> Any:
    """Key, packed event."""
    return Types.ROW_NAMED(["key", "event"], [Types.STRING(), Types.PICKLED_BYTE_ARRAY()])


def keyed(stream: DataStream) -> KeyedStream:
    """By the first field, on the JVM: `DataStream.key_by` would call Python for every record."""
    gateway = get_gateway()
    key_type = Types.ROW([Types.STRING()]).get_java_type_info()
    selector = gateway.jvm.KeyByKeySelector()
    return KeyedStream(
        stream._j_data_stream.keyBy(selector, key_type), Types.PICKLED_BYTE_ARRAY(), stream
    )


def with_watermarks(
    stream: DataStream, time: str, columns: str, type_info: Any, name: str, tables: Any
) -> DataStream:
    """Watermarks of `time` - 1 ms after every row, by the Table API: its assigner, unlike the
    DataStream API's, follows every event when `pipeline.auto-watermark-interval` is 0.

    `type_info` is what comes out: the Table API's own type would not do for a Python operator.
    """
    schema = (
        Schema.new_builder()
        .column_by_expression("rowtime_", f"TO_TIMESTAMP_LTZ({time}, 3)")
        .watermark("rowtime_", "rowtime_ - INTERVAL '0.001' SECOND")
        .build()
    )
    tables.create_temporary_view(name, tables.from_data_stream(stream, schema))
    out = tables.to_data_stream(tables.sql_query(f"SELECT {columns} FROM {name}"))
    out._j_data_stream.getTransformation().setOutputType(type_info.get_java_type_info())
    return out


def _files(
    features: FilesSource, actions: FilesSource, settings: DecodeSettings, tables: Any
) -> Events:
    chunks = plan(features.path, actions.path)
    manifest = Path(tempfile.mkdtemp(prefix="sample-stitch-")) / "chunks.txt"
    manifest.write_bytes(b"".join(msgspec.json.encode(chunk) + b"\n" for chunk in chunks))
    tables.execute_sql(
        "CREATE TEMPORARY TABLE chunks (v STRING) WITH ('connector' = 'filesystem', "
        f"'path' = '{manifest.as_uri()}', 'format' = 'raw')"
    )
    with_time = Types.ROW_NAMED(
        ["key", "event", "clock"], [Types.STRING(), Types.PICKLED_BYTE_ARRAY(), Types.LONG()]
    )
    decoded = (
        tables.to_data_stream(tables.sql_query("SELECT v FROM chunks"))
        .process(ReadFiles(settings), with_time)
        .name("read files")
        .uid("read-files")
        .set_parallelism(1)
    )
    events = with_watermarks(decoded, "clock", "`key`, event", keyed_type(), "decoded", tables)
    return Events(keyed(events), decoded.get_side_output(OutputTag(REJECTED_TAG, rejected_type())))


def _kafka(
    stream: Stream, source: KafkaSource, settings: DecodeSettings, tables: Any
) -> tuple[Any, Any]:
    name = f"{stream}_records"
    options = {
        "connector": "kafka",
        "topic": source.topic,
        "properties.bootstrap.servers": source.bootstrap_servers,
        "format": "raw",
        **_start(source),
        **_end(source),
    }
    if source.group_id is not None:
        options["properties.group.id"] = source.group_id
    if source.end == "never":
        options["scan.watermark.idle-timeout"] = f"{int(source.idle_timeout)} ms"
    if source.max_drift is not None:
        # both streams in one group: neither reads far ahead of the other
        options["scan.watermark.alignment.group"] = "sample-stitch"
        options["scan.watermark.alignment.max-drift"] = f"{int(source.max_drift)} ms"
    options |= {f"properties.{key}": value for key, value in source.properties.items()}
    with_options = ", ".join(f"'{k}' = '{_quoted(v)}'" for k, v in options.items())
    tables.execute_sql(
        f"""CREATE TEMPORARY TABLE {name} (
            v BYTES,
            topic STRING METADATA VIRTUAL,
            part INT METADATA FROM 'partition' VIRTUAL,
            off BIGINT METADATA FROM 'offset' VIRTUAL,
            ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
            WATERMARK FOR ts AS ts - {_interval(int(source.out_of_orderness) + 1)}
        ) WITH ({with_options})"""
    )
    records = tables.to_data_stream(
        tables.sql_query(
            f"""SELECT DECODE(v, 'ISO-8859-1'), topic, part, off,
                CAST(TIMESTAMPDIFF(MINUTE, TIMESTAMP '1970-01-01 00:00:00', t) AS BIGINT) * 60000
                + EXTRACT(SECOND FROM t) * 1000 + EXTRACT(MILLISECOND FROM t)
            FROM (SELECT *, CAST(ts AS TIMESTAMP(3)) AS t FROM {name})"""
        )
    )
    decoded = (
        records.process(DecodeRecords(settings, stream), keyed_type())
        .name(f"decode {stream}")
        .uid(f"decode-{stream}")
    )
    return (
        decoded,
        decoded.get_side_output(OutputTag(REJECTED_TAG, rejected_type())),
    )


def _union(streams: list[tuple[Any, Any]]) -> Events:
    (events, rejected), (more_events, more_rejected) = streams
    return Events(keyed(events.union(more_events)), rejected.union(more_rejected))


def _start(source: KafkaSource) -> dict[str, str]:
    if isinstance(source.start, int):
        return {
            "scan.startup.mode": "timestamp",
            "scan.startup.timestamp-millis": str(source.start),
        }
    modes = {
        "earliest": "earliest-offset",
        "latest": "latest-offset",
        "committed": "group-offsets",
    }
    return {"scan.startup.mode": modes[source.start]}


def _end(source: KafkaSource) -> dict[str, str]:
    if isinstance(source.end, int):
        return {"scan.bounded.mode": "timestamp", "scan.bounded.timestamp-millis": str(source.end)}
    return {"scan.bounded.mode": "latest-offset"} if source.end == "latest" else {}


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _interval(ms: int) -> str:
    """As SQL writes it; up to 99 days."""
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"INTERVAL '{days} {hours:02}:{minutes:02}:{seconds:02}.{ms:03}' DAY TO SECOND(3)"
