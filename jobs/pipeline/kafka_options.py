"""What Flink's Kafka connector is told about a source: its table options, and how long time waits.

Pure, so that every start, end and property can be tested without a broker. The options are those of
https://nightlies.apache.org/flink/flink-docs-stable/docs/connectors/table/kafka/
"""

from __future__ import annotations

from jobs.pipeline.config import KafkaSource
from jobs.pipeline.kafka_properties import SHADED_PACKAGE, for_connector

#: How long (ms) it takes, beside the interval itself, until a new partition is being read: the
#: brokers' metadata, the connector's request, the first fetch.
DISCOVERY_TAKES_MS = 5_000
#: One group for both streams, so that neither reads far ahead of the other.
_ALIGNMENT_GROUP = "sample-stitch"


def table_options(source: KafkaSource, kafka_package: str = SHADED_PACKAGE) -> dict[str, str]:
    """The options of the source's table. `kafka_package`: where the connector has Kafka's classes.

    Options by keys of ours come last, so that no property replaces one of them.
    """
    properties = for_connector(source.properties, kafka_package)
    options = {f"properties.{name}": value for name, value in properties.items()}
    options |= {
        "connector": "kafka",
        **_topics(source),
        "properties.bootstrap.servers": source.bootstrap_servers,
        "format": "raw",
        "scan.topic-partition-discovery.interval": f"{int(source.partition_discovery)} ms",
        **_start(source),
        **_end(source),
    }
    if source.group_id is not None:
        options["properties.group.id"] = source.group_id
    if source.end == "never":
        options["scan.watermark.idle-timeout"] = f"{int(source.idle_timeout)} ms"
    if source.max_drift is not None:
        options["scan.watermark.alignment.group"] = _ALIGNMENT_GROUP
        options["scan.watermark.alignment.max-drift"] = f"{int(source.max_drift)} ms"
    return options


def watermark_lag(source: KafkaSource) -> int:
    """How far (ms) the watermark of an unbounded source stays behind the clock at least.

    A partition that is added now is read within this time, and its records are not older than their
    producers' delay, for which the source's bound stands. So nothing in it is late.
    """
    bound = int(source.out_of_orderness)
    interval = int(source.partition_discovery)
    return bound + interval + DISCOVERY_TAKES_MS if interval else bound


def _topics(source: KafkaSource) -> dict[str, str]:
    if source.topic_pattern is not None:
        return {"topic-pattern": source.topic_pattern}
    # no name has a semicolon
    return {"topic": ";".join(source.topics)}


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
