"""Kafka with a login, every start, partitions and topics added on the way, and old timestamps.

Two runs of the job hold all of it, for a run costs more than what is asked of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewPartitions
from kafka.structs import OffsetAndMetadata

from jobs.pipeline.config import load
from services.kafka_broker import KafkaBroker
from services.waiting import wait_until
from tests.e2e.local_job import started
from tests.e2e.secured import USERS
from tests.e2e.sockets import is_loopback, listening
from tests.flink import running
from tools.audit.command import audit

USER = "joiner"
PASSWORD = USERS[USER]
START = 1_700_000_000_000

SOURCE = """
[sources.{stream}]
type = "kafka"
topic_pattern = "{name}-{stream}(-.+)?"
bootstrap_servers = "{servers}"
out_of_orderness = "1s"
partition_discovery = "1s"
{keys}
[sources.{stream}.properties]
"isolation.level" = "read_committed"
"security.protocol" = "SASL_PLAINTEXT"
"sasl.mechanism" = "{mechanism}"
"sasl.jaas.config" = '''
org.apache.kafka.common.security.{module} required
username="{user}" password="${{KAFKA_PASSWORD}}";'''
"""
MECHANISMS = {"PLAIN": "plain.PlainLoginModule", "SCRAM-SHA-512": "scram.ScramLoginModule"}


def configuration(
    broker: KafkaBroker, folder: Path, name: str, mechanism: str, keys: Mapping[str, str]
) -> Path:
    """`keys`: further ones of each source, by stream."""
    text = '[actions.click]\nwindow = "1s"\n'
    for stream in ("features", "actions"):
        text += SOURCE.format(
            stream=stream,
            name=name,
            servers=broker.servers("LOGIN"),
            keys=keys[stream],
            mechanism=mechanism,
            module=MECHANISMS[mechanism],
            user=USER,
        )
    text += f'[output]\npath = "{folder}/out"\n[runtime]\ncheckpoint_interval = "1s"\n'
    text += f'checkpoint_path = "{folder}/checkpoints"\n'
    path = folder / "pipeline.toml"
    path.write_text(text)
    return path


def request(name: str, time_ms: int) -> dict[str, Any]:
    items = [{"item_id": "i", "features": {}}]
    return {"request_id": name, "user_id": "u", "event_time": time_ms, "items": items}


def click(name: str, time_ms: int) -> dict[str, Any]:
    action = {"request_id": name, "user_id": "u", "item_id": "i", "action": "click"}
    return {**action, "event_time": time_ms}


class Topics:
    """Topics `<name>-features` and `<name>-actions`, to produce to."""

    def __init__(self, broker: KafkaBroker, name: str) -> None:
        self.name, self._servers = name, broker.bootstrap_servers
        for stream in ("features", "actions"):
            broker.create_topic(f"{name}-{stream}")

    def send(self, stream: str, events: Iterable[tuple[dict[str, Any], int]]) -> None:
        """Events with the partition of each; the timestamps are the events' own."""
        producer = KafkaProducer(bootstrap_servers=self._servers)
        for event, partition in events:
            producer.send(
                f"{self.name}-{stream}",
                json.dumps(event).encode(),
                partition=partition,
                timestamp_ms=event["event_time"],
            ).get(timeout=60)
        producer.close()

    def send_pair(self, name: str, time_ms: int, request_in: int, click_in: int) -> None:
        self.send("features", [(request(name, time_ms), request_in)])
        self.send("actions", [(click(name, time_ms + 1), click_in)])

    def add_partition(self) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self._servers)
        topics = [f"{self.name}-{stream}" for stream in ("features", "actions")]
        admin.create_partitions({topic: NewPartitions(2) for topic in topics})
        admin.close()

        def known() -> bool:
            consumer = KafkaConsumer(bootstrap_servers=self._servers)
            try:
                return all(len(consumer.partitions_for_topic(topic) or ()) == 2 for topic in topics)
            finally:
                consumer.close()

        wait_until(known, 60, "the brokers to know the new partitions")

    def commit(self, stream: str, group: str, offset: int) -> None:
        consumer = KafkaConsumer(
            bootstrap_servers=self._servers, group_id=group, enable_auto_commit=False
        )
        partition = TopicPartition(f"{self.name}-{stream}", 0)
        consumer.assign([partition])
        consumer.commit({partition: OffsetAndMetadata(offset, "", -1)})
        consumer.close()

    def committed(self, stream: str, group: str) -> int:
        """The offset that a group has committed in partition 0; 0 if it has not."""
        consumer = KafkaConsumer(
            bootstrap_servers=self._servers, group_id=group, enable_auto_commit=False
        )
        try:
            return consumer.committed(TopicPartition(f"{self.name}-{stream}", 0)) or 0
        finally:
            consumer.close()


def files_with(secret: str, *folders: Path) -> list[str]:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.thorough
def test_scram_latest_and_a_partition_and_a_topic_added_on_the_way(
    kafka_broker: KafkaBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests in the one partition are clicked in the other. Not one becomes a negative."""
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    topics = Topics(kafka_broker, "added")
    topics.send_pair("before", START, 0, 0)
    common = 'start = "latest"\nidle_timeout = "5s"\ngroup_id = "watched"'
    keys = dict.fromkeys(("features", "actions"), common)
    config = configuration(kafka_broker, tmp_path, "added", "SCRAM-SHA-512", keys)
    output, log = tmp_path / "out", tmp_path / "job.log"
    sent = 0

    def produced_until(found: str) -> bool:
        """One more pair, or two; whether a row of `found` can be seen."""
        nonlocal sent
        assert job.poll() is None, log.read_text()
        now = int(time.time() * 1000)
        if phase == "topic":
            topics.send_pair(f"old{sent}", now, 0, 1)
            topics.send("actions-more", [(click(f"topic{sent}", now + 1), 0)])
            topics.send("features-more", [(request(f"topic{sent}", now), 0)])
        elif phase == "partition":
            topics.send_pair(f"old{sent}", now, 0, 1)
            topics.send_pair(f"new{sent}", now, 1, 0)
        else:
            topics.send_pair(f"first{sent}", now, 0, 0)
        sent += 1
        return any(row["request_id"].startswith(found) for row in running.rows(output, "samples"))

    with started(["--config", str(config)], log) as job:
        phase = "first"
        wait_until(lambda: produced_until("first"), 150, "a first row", every_s=0.2)
        assert listening(job.pid)
        assert not [address for address in listening(job.pid) if not is_loopback(address)]
        topics.add_partition()
        phase = "partition"
        wait_until(lambda: produced_until("new"), 120, "a row of the new partition", every_s=0.2)
        for stream in ("features", "actions"):
            kafka_broker.create_topic(f"added-{stream}-more")
        phase = "topic"
        wait_until(lambda: produced_until("topic"), 120, "a row of the new topic", every_s=0.2)
        # checkpoints commit the offsets, for whoever watches the group
        wait_until(
            lambda: all(topics.committed(stream, "watched") > 1 for stream in keys),
            60,
            "committed offsets",
        )
        # what was read together with the first row of the new topic is written with it
        rejected = running.rows(output, "rejected")
        rows = running.rows(output, "samples")

    wrong = [row["request_id"] for row in rows if row["label_click"] != 1]
    # a request may be read from "latest" on, and its click have been there before
    assert [name for name in wrong if not name.startswith("first")] == []
    assert [row for row in rejected if row["reason"] == "late_request"] == []
    assert {row["request_id"][:3] for row in rows} == {"fir", "old", "new", "top"}
    assert files_with(PASSWORD, tmp_path) == []


def test_plain_committed_and_a_time_in_one_bounded_run_and_its_audit(
    kafka_broker: KafkaBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features from the committed offset on, actions from a time on; neither runs ahead."""
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    topics = Topics(kafka_broker, "starts")
    for i in range(20):
        topics.send_pair(f"r{i}", START + i * 10_000, 0, 0)
    topics.commit("features", "joiners", 5)
    common = 'end = "latest"\nmax_drift = "1min"\n'
    keys = {
        "features": f'{common}start = "committed"\ngroup_id = "joiners"',
        "actions": f"{common}start = {START + 80_000}",
    }
    config = configuration(kafka_broker, tmp_path, "starts", "PLAIN", keys)
    running.join(config, tmp_path / "out")
    rows = {
        row["request_id"]: row["label_click"] for row in running.rows(tmp_path / "out", "samples")
    }
    assert rows == {f"r{i}": int(i >= 8) for i in range(5, 20)}

    bounds = [f"sources.features.start={START + 50_000}"]
    report = audit(load(config, bounds))
    assert report.closes, report.findings
    assert files_with(PASSWORD, tmp_path) == []

    explained = running.run_module("jobs.join_samples", "--config", str(config), "--explain")
    assert explained.returncode == 0, explained.stderr
    assert PASSWORD not in explained.stdout + explained.stderr


def test_what_cannot_work_is_one_line_before_the_start(
    kafka_broker: KafkaBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong password, a group without offsets, and events of 2023 with timestamps of today."""
    topics = Topics(kafka_broker, "wrong")
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers)
    for i in range(20):
        value = json.dumps(request(f"r{i}", START)).encode()
        producer.send("wrong-features", value).get(timeout=60)
    producer.close()
    keys = dict.fromkeys(("features", "actions"), 'end = "latest"')
    config = configuration(kafka_broker, tmp_path, topics.name, "SCRAM-SHA-512", keys)

    def line(*overrides: str) -> str:
        sets = [f"--set={override}" for override in overrides]
        done = running.run_module("jobs.join_samples", "--config", str(config), *sets)
        assert done.returncode == 2, done.stderr
        (only,) = done.stderr.strip().splitlines()
        return only

    monkeypatch.setenv("KAFKA_PASSWORD", "Zw4WrongBattery")
    said = line()
    assert "closes the connection at the login as 'joiner': user name or password is wrong" in said
    assert "Zw4WrongBattery" not in said
    assert files_with("Zw4WrongBattery", tmp_path) == []

    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    said = line()
    assert "20 of 20 sampled records of topics like 'wrong-features(-.+)?' have an event" in said
    said = line("sources.features.start=committed", "sources.features.group_id=nobody")
    assert "the group 'nobody' has committed no offset in wrong-features[0]" in said
