"""A source's topics as whole records: key, headers and timestamp, not the value alone.

The join reads its topics as tables (jobs/pipeline/sources.py). A table has headers as a map, in
which one of two headers with the same key is lost.
"""

from __future__ import annotations

from typing import Any

from pyflink.common import Duration, WatermarkStrategy
from pyflink.datastream import DataStream
from pyflink.java_gateway import get_gateway

from jobs.pipeline.config import KafkaSource
from jobs.pipeline.kafka_options import DISCOVERY_TAKES_MS, watermark_lag
from jobs.pipeline.kafka_properties import SHADED_PACKAGE, for_connector
from jobs.pipeline.sources import kafka_package
from udfs.operators import jvm as jvm_operators
from udfs.operators import shipped


def records(name: str, source: KafkaSource, env: Any, row_type: Any) -> DataStream:
    """The records of a source as internal rows (`udfs/jvm/WholeRecords.java`).

    `name`: that of the source (`NamedSource.id`), by which its operators are called. The watermark
    is made per partition, from the records' timestamps. `row_type`: the Java TypeInformation of the
    rows.
    """
    strategy = WatermarkStrategy.for_bounded_out_of_orderness(
        Duration.of_millis(int(source.out_of_orderness))
    )
    if source.end == "never":
        strategy = strategy.with_idleness(Duration.of_millis(int(source.idle_timeout)))
    package = kafka_package()
    whole_records = shipped.ship(env, "WholeRecords", (SHADED_PACKAGE, package))
    rows = env._j_stream_execution_environment.fromSource(
        _source(source, package, whole_records(row_type)),
        strategy._j_watermark_strategy,
        f"{name} source",
        row_type,
    ).uid(f"{name}-source")
    return DataStream(rows)


def after_new_partitions(
    rows: DataStream, name: str, source: KafkaSource, row_type: Any
) -> DataStream:
    """The same rows, with a watermark that waits for partitions that were just added."""
    if source.end != "never":
        return rows
    return jvm_operators.transform(
        rows,
        "AwaitPartitions",
        row_type,
        str(watermark_lag(source)),
        str(DISCOVERY_TAKES_MS),
        uid=f"await-partitions-{name}",
    )


def _source(source: KafkaSource, package: str, deserializer: Any) -> Any:
    jvm = get_gateway().jvm
    kafka = jvm.org.apache.flink.connector.kafka.source
    initializers = kafka.enumerator.initializer.OffsetsInitializer
    builder = (
        kafka.KafkaSource.builder()
        .setBootstrapServers(source.bootstrap_servers)
        .setDeserializer(deserializer)
    )
    if source.topic_pattern is not None:
        builder = builder.setTopicPattern(jvm.java.util.regex.Pattern.compile(source.topic_pattern))
    else:
        topics = jvm.java.util.ArrayList()
        for topic in source.topics:
            topics.add(topic)
        builder = builder.setTopics(topics)
    if source.group_id is not None:
        builder = builder.setGroupId(source.group_id)
    properties = for_connector(source.properties, package)
    properties["partition.discovery.interval.ms"] = str(int(source.partition_discovery))
    for name, value in properties.items():
        builder = builder.setProperty(name, value)
    if source.end == "latest":
        builder = builder.setBounded(initializers.latest())
    elif isinstance(source.end, int):
        builder = builder.setBounded(initializers.timestamp(source.end))
    return builder.setStartingOffsets(_start(source, initializers, package)).build()


def _start(source: KafkaSource, initializers: Any, package: str) -> Any:
    if isinstance(source.start, int):
        return initializers.timestamp(source.start)
    if source.start != "committed":
        return initializers.earliest() if source.start == "earliest" else initializers.latest()
    jvm = get_gateway().jvm
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    strategies = jvm.java.lang.Class.forName(
        f"{package}clients.consumer.OffsetResetStrategy", True, loader
    )
    reset = source.properties.get("auto.offset.reset", "none").upper()
    return initializers.committedOffsets(jvm.java.lang.Enum.valueOf(strategies, reset))
