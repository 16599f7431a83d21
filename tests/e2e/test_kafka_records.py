"""What lies in topics beside good events: aborted transactions, tombstones, headers; and several
topics for one stream, by a list and by a pattern.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from jobs.pipeline.config import load
from tests.e2e.secured import SecuredBroker
from tests.flink import running
from tools.audit.command import audit

START = 1_700_000_000_000

CONFIG = """
[actions.click]
window = "1s"
[sources.features]
type = "kafka"
topic = ["mixed-features-a", "mixed-features-b"]
bootstrap_servers = "{servers}"
end = "latest"
[sources.features.properties]
"isolation.level" = "{isolation}"
[sources.actions]
type = "kafka"
topic_pattern = "mixed-act[a-z]+-[ab]"
bootstrap_servers = "{servers}"
end = "latest"
[sources.actions.properties]
"isolation.level" = "{isolation}"
[output]
path = "{output}"
"""


def pair(i: int) -> Iterable[tuple[str, dict[str, Any]]]:
    """Request and click number i, in turn in the topics a and b."""
    time = START + i * 1000
    event = {"request_id": f"r{i}", "user_id": "u", "event_time": time}
    topic = "ab"[i % 2]
    yield f"mixed-features-{topic}", {**event, "items": [{"item_id": "i", "features": {}}]}
    click = {"event_time": time + 1, "item_id": "i", "action": "click"}
    yield f"mixed-actions-{topic}", {**event, **click}


def send(producer: KafkaProducer, numbers: Iterable[int]) -> None:
    for i in numbers:
        for topic, event in pair(i):
            value = json.dumps(event).encode()
            # neither key nor headers mean anything to the job
            producer.send(
                topic,
                value,
                key=b"\xff",
                timestamp_ms=event["event_time"],
                headers=[("trace", b"\x00\xff"), ("trace", b"")],
            ).get(timeout=60)


@pytest.fixture(scope="module")
def topics(kafka_broker: SecuredBroker) -> SecuredBroker:
    """Requests 0 to 9 are committed, 10 to 19 aborted, and 20 to 29 are in no transaction."""
    for stream in ("features", "actions"):
        for topic in "ab":
            kafka_broker.create_topic(f"mixed-{stream}-{topic}")
    # it begins like the pattern; nothing in it can be read as an action
    kafka_broker.create_topic("mixed-actions-ab")
    servers = kafka_broker.bootstrap_servers
    producer = KafkaProducer(bootstrap_servers=servers, transactional_id="mixed")
    producer.init_transactions()
    producer.begin_transaction()
    send(producer, range(10))
    producer.commit_transaction()
    producer.begin_transaction()
    send(producer, range(10, 20))
    producer.abort_transaction()
    producer.close()
    producer = KafkaProducer(bootstrap_servers=servers)
    producer.send("mixed-actions-ab", b"not an action").get(timeout=60)
    for stream in ("features", "actions"):
        topic = f"mixed-{stream}-a"
        producer.send(topic, None, key=b"gone", timestamp_ms=START + 15_000).get(timeout=60)
    send(producer, range(20, 30))
    producer.close()
    return kafka_broker


@pytest.mark.thorough
@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
def test_several_topics_with_transactions_and_tombstones(
    topics: SecuredBroker, tmp_path: Path, isolation: str
) -> None:
    config = tmp_path / "pipeline.toml"
    output = tmp_path / "out"
    config.write_text(
        CONFIG.format(servers=topics.bootstrap_servers, output=output, isolation=isolation)
    )
    running.join(config, output)

    rows = running.rows(output, "samples")
    aborted = range(10, 20) if isolation == "read_uncommitted" else ()
    expected = {f"r{i}": 1 for i in (*range(10), *aborted, *range(20, 30))}
    assert {row["request_id"]: row["label_click"] for row in rows} == expected
    rejected = running.rows(output, "rejected")
    assert sorted((row["reason"], row["origin"], row["raw"]) for row in rejected) == [
        ("empty_record", "mixed-actions-a", b""),
        ("empty_record", "mixed-features-a", b""),
    ]
    report = audit(load(config))
    assert report.closes, report.findings
    assert report.numbers()["requests"]["in"] == len(expected) + 1
