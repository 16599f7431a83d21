"""That the broker and the cluster of the tests are real ones and work."""

from __future__ import annotations

from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer

from services.flink_cluster import ClusterError, FlinkCluster
from services.kafka_broker import KafkaBroker
from tests.e2e.sockets import is_loopback, listening
from tests.flink import running

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


CLIENT = """
import os
import psutil
from pyflink.java_gateway import get_gateway
from tests.e2e.sockets import listening

assert os.environ["SAMPLE_STITCH_TEST_SECRET"]
get_gateway()
print("listens at", *listening(os.getppid()))
"""


def test_the_client_logs_no_secret_and_listens_on_loopback_only(
    flink_cluster: FlinkCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`flink run` logs the environment that it hands to Python, if it is let."""
    monkeypatch.setenv("SAMPLE_STITCH_TEST_SECRET", "q8Tz7mNeverInALog")
    monkeypatch.setenv("PYTHONPATH", str(running.ROOT))
    script = tmp_path / "client.py"
    script.write_text(CLIENT)
    output = flink_cluster.run(script).output
    (line,) = [line for line in output.splitlines() if line.startswith("listens at")]
    addresses = line.split()[2:]
    assert len(addresses) >= 2, "one of Java, one of Python"
    assert not [address for address in addresses if not is_loopback(address)]
    logs = [path for path in flink_cluster.folder.rglob("*") if path.is_file()]
    assert any("client" in path.name for path in logs)
    assert [str(path) for path in logs if b"q8Tz7mNeverInALog" in path.read_bytes()] == []


def test_broker_and_cluster_listen_on_loopback_only(
    kafka_broker: KafkaBroker, flink_cluster: FlinkCluster
) -> None:
    for process_ids in (kafka_broker.process_ids, flink_cluster.process_ids):
        addresses = listening(*process_ids)
        assert addresses, "nothing listens at all"
        assert not [address for address in addresses if not is_loopback(address)]
