"""That the broker and the cluster of the tests are real ones and work."""

from __future__ import annotations

from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer

from services.flink_cluster import ClusterError, FlinkCluster
from services.kafka_broker import KafkaBroker

LONG_AGO_MS = 1_000_000_000_000  # September 2001: far behind any retention


def test_broker_gives_back_an_old_record_with_its_key_and_time(kafka_broker: KafkaBroker) -> None:
    kafka_broker.create_topic("services-smoke", partitions=3)
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers)
    written = producer.send(
        "services-smoke", b"value", key=b"key", partition=2, timestamp_ms=LONG_AGO_MS
    ).get(timeout=20)
    producer.close()
    assert (written.partition, written.offset) == (2, 0)

    consumer = KafkaConsumer(
        "services-smoke",
        bootstrap_servers=kafka_broker.bootstrap_servers,
        auto_offset_reset="earliest",
        consumer_timeout_ms=20_000,
    )
    try:
        record = next(consumer)
    finally:
        consumer.close()
    assert (record.key, record.value, record.timestamp) == (b"key", b"value", LONG_AGO_MS)


def test_cluster_has_two_task_managers_with_a_slot_each(flink_cluster: FlinkCluster) -> None:
    overview = flink_cluster.get("/overview")
    assert (overview["taskmanagers"], overview["slots-total"]) == (2, 2)


def test_a_script_that_fails_is_an_error_with_its_own_words(
    flink_cluster: FlinkCluster, tmp_path: Path
) -> None:
    script = tmp_path / "fails.py"
    script.write_text('raise SystemExit("no such topic: clicks")\n', encoding="utf-8")
    with pytest.raises(ClusterError, match="no such topic: clicks"):
        flink_cluster.run(script)
