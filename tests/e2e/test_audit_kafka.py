"""The audit of a job that reads Kafka: while it runs, and of a run with an end."""

from __future__ import annotations

from pathlib import Path

import pytest
from kafka import KafkaProducer

from jobs.pipeline.config import load
from services.kafka_broker import KafkaBroker
from services.waiting import wait_until
from tests.e2e.local_job import started
from tests.e2e.test_kafka import (
    CONFIG,
    PARTITIONS,
    REQUESTS,
    START,
    as_record,
    traffic,
)
from tests.flink import running
from tests.timeline import Action, Request
from tools.audit.command import audit
from tools.audit.report import Report

TOPICS = ("audit-features", "audit-actions")
#: Past every deadline, in every partition: lets time pass, and is still held itself.
FAR = START + 3_600_000


def produce(servers: str, requests: list[Request], actions: list[Action]) -> None:
    """In the order of time; a bad record before the far ones."""
    producer = KafkaProducer(bootstrap_servers=servers)
    sent = []

    def send(event: Request | Action, partition: int) -> None:
        topic = TOPICS[isinstance(event, Action)]
        time = event.event_time
        sent.append(producer.send(topic, as_record(event), timestamp_ms=time, partition=partition))

    events: list[Request | Action] = [*requests, *sorted(actions, key=lambda a: a.event_time)]
    for event in events:
        send(event, int(str(event.request_id)[1:]) % PARTITIONS)
    sent.append(producer.send(TOPICS[1], b'{"broken', timestamp_ms=START + 5_000, partition=1))
    for partition in range(PARTITIONS):
        name = f"far{partition}"
        send(Request(name, "u", FAR, ("i",)), partition)
        send(Action(name, "u", "i", name, "click", None, FAR), partition)
    producer.flush()
    for future in sent:
        future.get(timeout=30)  # an asynchronous send says only here that it was refused
    producer.close()


@pytest.mark.thorough
def test_a_running_job_has_what_is_due_and_a_bounded_one_all(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    text = CONFIG.format(
        servers=kafka_broker.bootstrap_servers,
        output=tmp_path / "out",
        checkpoints=tmp_path / "checkpoints",
    )
    for topic in TOPICS:
        kafka_broker.create_topic(topic, partitions=PARTITIONS)
        text = text.replace(f'topic = "{topic.removeprefix("audit-")}"', f'topic = "{topic}"')
    config = tmp_path / "pipeline.toml"
    config.write_text(text)
    requests, actions = traffic()
    produce(kafka_broker.bootstrap_servers, requests, actions)

    log = tmp_path / "job.log"
    with started(["--config", str(config)], log) as job:

        def closed() -> list[Report]:
            """The files of a checkpoint do not appear at once, so it may take another look."""
            assert job.poll() is None, log.read_text()
            if not (tmp_path / "out").is_dir():
                return []
            report = audit(load(config))
            settled = report.numbers()["requests"].get("settled", 0)
            return [report] if report.closes and settled == REQUESTS else []

        [report] = wait_until(closed, 150, "the audit to close", every_s=1)

    # the far events that let time pass are still held
    numbers = report.numbers()
    assert numbers["requests"]["pending"] == PARTITIONS
    assert numbers["actions"]["pending"] == PARTITIONS
    assert numbers["actions"]["joined"] == len(actions)
    assert numbers["actions"]["rejected: broken_json"] == 1

    bounded = [f"sources.{s}.end=latest" for s in ("features", "actions")]
    running.join(config, tmp_path / "bounded", *bounded)
    report = audit(load(config, [*bounded, f"output.path={tmp_path / 'bounded'}"]))
    assert report.closes, report.findings
    numbers = report.numbers()
    assert numbers["requests"] == {
        "in": REQUESTS + PARTITIONS,
        "settled": REQUESTS + PARTITIONS,
        "difference": 0,
    }
    assert numbers["actions"]["joined"] == len(actions) + PARTITIONS
