"""One run of Spark: ``python -m benchmarks.join.run_spark SPEC``; the last line is a JSON.

The textbook plan of Structured Streaming: requests exploded to impressions, LEFT OUTER join with
the actions by request, item and time. Micro-batches follow each other without a pause.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql import types as t

from benchmarks.join.data import feature_names
from benchmarks.join.flink_options import HEAP, MANAGED_MB
from benchmarks.join.peers import Kafka, Stopwatch, end_record, end_time, java_child, scratch_name
from benchmarks.join.spark_files import cut
from benchmarks.join.spec import DISORDER_MS, START_MS, Spec
from services.jars import jar_paths
from services.java import find_java_home

#: Requests in a micro-batch: each costs about a second of planning and commits, whatever its size.
#: In short inputs fewer, so that time moves and rows come out before the end.
_BATCH_REQUESTS, _LEAST_BATCHES = 25_000, 2

_STREAMS = ("features", "actions")


def run(spec: Spec) -> dict[str, float]:
    """Run to the end of the input; returns ``seconds`` and ``cpu_seconds``.

    Raises:
        RuntimeError: if Spark has dropped records as late.
    """
    os.environ["JAVA_HOME"] = str(find_java_home())
    spark = _session(spec)
    try:
        spark.sparkContext.setLogLevel("WARN")
        reading = _kafka if spec.source == "kafka" else _files
        with reading(spark, spec) as (features, actions, end):
            writer = (
                _joined(spec, features, actions)
                .writeStream.format("parquet")
                .partitionBy("dt", "hr")
                .option("compression", "zstd")
                .option("path", f"{spec.scratch}/out/samples")
                .option("checkpointLocation", f"{spec.scratch}/checkpoint")
            )
            watch = Stopwatch(java_child())
            query = writer.start()
            query.processAllAvailable()
            end()
            query.processAllAvailable()
            result = watch.result()
            query.stop()
        _check_nothing_dropped(query)
        return result
    finally:
        spark.stop()


def _session(spec: Spec) -> SparkSession:
    options = {
        "spark.driver.memory": HEAP,
        "spark.driver.extraClassPath": os.pathsep.join(map(str, jar_paths("spark"))),
        "spark.local.dir": spec.scratch,
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": str(spec.parallelism),
        # all of them, since the number of dropped records is looked for in each
        "spark.sql.streaming.numRecentProgressUpdates": "100000",
    }
    if spec.backend == "rocksdb":
        store = "spark.sql.streaming.stateStore"
        options |= {
            f"{store}.providerClass": "org.apache.spark.sql.execution.streaming.state."
            "RocksDBStateStoreProvider",
            f"{store}.rocksdb.changelogCheckpointing.enabled": "true",
            f"{store}.rocksdb.boundedMemoryUsage": "true",
            f"{store}.rocksdb.maxMemoryUsageMB": str(MANAGED_MB),
        }
    builder = SparkSession.builder.appName("benchmark").master(f"local[{spec.parallelism}]")
    return builder.config(map=options).getOrCreate()


def _schema(spec: Spec, stream: str) -> t.StructType:
    if stream == "actions":
        return t.StructType(
            [t.StructField(n, t.StringType()) for n in ("request_id", "item_id", "action")]
            + [t.StructField("event_time", t.LongType())]
        )
    doubles, strings = feature_names(spec.features)
    features = [t.StructField(n, t.DoubleType()) for n in doubles]
    features += [t.StructField(n, t.StringType()) for n in strings]
    item = [
        t.StructField("item_id", t.StringType()),
        t.StructField("features", t.StructType(features)),
    ]
    return t.StructType(
        [
            t.StructField("request_id", t.StringType()),
            t.StructField("event_time", t.LongType()),
            t.StructField("items", t.ArrayType(t.StructType(item))),
        ]
    )


@contextlib.contextmanager
def _files(
    spark: SparkSession, spec: Spec
) -> Iterator[tuple[DataFrame, DataFrame, Callable[[], None]]]:
    """Both streams, and what ends them. One file a stream is a micro-batch."""
    folder = Path(spec.scratch) / "input"
    end = cut(Path(spec.data), folder, -(-spec.requests // _batches(spec)))
    features, actions = (
        spark.readStream.schema(_schema(spec, stream))
        .option("maxFilesPerTrigger", 1)
        .json(str(folder / stream))
        for stream in _STREAMS
    )
    yield features, actions, lambda: end(end_record(end_time(spec, START_MS)))


@contextlib.contextmanager
def _kafka(
    spark: SparkSession, spec: Spec
) -> Iterator[tuple[DataFrame, DataFrame, Callable[[], None]]]:
    """Both streams, and what ends them. Both have the same number of micro-batches."""
    kafka = Kafka(spec.brokers)
    with kafka.topic(f"{spec.topics}-end-{scratch_name(spec)}", 1) as end_topic:

        def stream(name: str) -> DataFrame:
            topic = f"{spec.topics}-{name}"
            records = kafka.size(topic, spec.partitions)
            value = f.from_json(f.col("value").cast("string"), _schema(spec, name))
            return (
                spark.readStream.format("kafka")
                .option("kafka.bootstrap.servers", spec.brokers)
                .option("subscribe", f"{topic},{end_topic}")
                .option("startingOffsets", "earliest")
                .option("maxOffsetsPerTrigger", max(spec.partitions, -(-records // _batches(spec))))
                .load()
                .select(value.alias("v"))
                .select("v.*")
            )

        def end() -> None:
            time = end_time(spec, START_MS)
            kafka.put(end_topic, 0, end_record(time), time)

        yield stream("features"), stream("actions"), end


def _batches(spec: Spec) -> int:
    return max(_LEAST_BATCHES, -(-spec.requests // _BATCH_REQUESTS))


def _joined(spec: Spec, features: DataFrame, actions: DataFrame) -> DataFrame:
    # A micro-batch ends at another time in each partition, and the watermark follows the furthest.
    # It takes effect a micro-batch later, so nothing is late as long as they are not further apart.
    watermark = f"{DISORDER_MS} milliseconds"
    doubles, strings = feature_names(spec.features)
    impressions = (
        features.withColumn("rt", f.timestamp_millis("event_time"))
        .withWatermark("rt", watermark)
        .select("request_id", "event_time", "rt", f.posexplode("items").alias("position", "item"))
        .select(
            *("request_id", "event_time", "rt", "position", "item.item_id"),
            *(f"item.features.{name}" for name in doubles + strings),
        )
    )
    clicks = (
        actions.where(f.col("action") == "click")
        .select(
            f.col("request_id").alias("a_request_id"),
            f.col("item_id").alias("a_item_id"),
            f.col("event_time").alias("a_time"),
            f.timestamp_millis("event_time").alias("a_rt"),
        )
        .withWatermark("a_rt", watermark)
    )
    window = f.expr(f"interval {spec.window_ms} milliseconds")
    matches: Column = (
        (f.col("request_id") == f.col("a_request_id"))
        & (f.col("item_id") == f.col("a_item_id"))
        & (f.col("a_rt") >= f.col("rt"))
        & (f.col("a_rt") <= f.col("rt") + window)
    )
    return impressions.join(clicks, matches, "leftOuter").select(
        *("request_id", "item_id", "position", "event_time", *doubles, *strings),
        f.col("a_time").isNotNull().cast("tinyint").alias("label_click"),
        (f.col("a_time") - f.col("event_time")).alias("delay_click_ms"),
        f.date_format("rt", "yyyy-MM-dd").alias("dt"),
        f.date_format("rt", "HH").alias("hr"),
    )


def _check_nothing_dropped(query: Any) -> None:
    dropped = sum(
        operator["numRowsDroppedByWatermark"]
        for progress in query.recentProgress
        for operator in progress["stateOperators"]
    )
    if dropped:
        raise RuntimeError(f"Spark dropped {dropped} rows as late")


def main() -> int:
    """One measurement, as a process of its own: a `Spec` as JSON in, seconds out."""
    spec = Spec.from_json(sys.argv[1])
    print(json.dumps(run(spec)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
