"""The job over a real broker, unbounded: partitions at different speeds, disorder, a bad record."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from services.kafka_broker import KafkaBroker
from services.waiting import wait_until
from tests import oracle
from tests.e2e.local_job import started
from tests.flink import running
from tests.timeline import Action, Request, Rules, Timeline

START = 1_700_000_000_000
WINDOW_MS, DISORDER_MS = 60_000, 2_000
REQUESTS, PARTITIONS = 300, 3
RULES = Rules("request_id", {"click": WINDOW_MS}, {"click": "count"})

CONFIG = """
[join]
key = "request_id"
[actions.click]
window = "60s"
label = "count"
[features.price]
type = "float64"
[sources.features]
type = "kafka"
topic = "features"
bootstrap_servers = "{servers}"
out_of_orderness = "2s"
[sources.actions]
type = "kafka"
topic = "actions"
bootstrap_servers = "{servers}"
out_of_orderness = "2s"
[output]
path = "{output}"
[runtime]
checkpoint_interval = "1s"
checkpoint_path = "{checkpoints}"
"""


def traffic() -> tuple[list[Request], list[Action]]:
    """Requests a second apart, with clicks up to the edge of the window."""
    rng = random.Random(7)
    requests: list[Request] = []
    actions: list[Action] = []
    for i in range(REQUESTS):
        items = tuple(f"i{rng.randrange(50)}" for _ in range(4))
        request = Request(f"r{i}", f"u{i % 17}", START + i * 1_000, items)
        requests.append(request)
        for item in dict.fromkeys(items):
            if rng.random() < 0.3:
                delay = rng.choice([0, 1, 400, 5_000, WINDOW_MS])
                name = f"e{len(actions)}"
                time = request.event_time + delay
                actions.append(
                    Action(name, request.user_id, item, request.request_id, "click", None, time)
                )
    return requests, actions


def as_record(event: Request | Action) -> bytes:
    if isinstance(event, Action):
        fields = {k: v for k, v in vars(event).items() if v is not None}
        return json.dumps(fields).encode()
    items = [{"item_id": item, "features": {"price": 0.5}} for item in event.items]
    return json.dumps(vars(event) | {"items": items}).encode()


def produce(servers: str, requests: list[Request], actions: list[Action]) -> None:
    """Keys and CreateTime timestamps; disorder within the bound; partition 0 comes last of all."""
    rng = random.Random(8)
    producer = KafkaProducer(bootstrap_servers=servers)
    sent = []
    for topic, events in (("features", list(requests)), ("actions", list(actions))):
        arrival = {id(e): e.event_time + rng.randrange(DISORDER_MS) for e in events}
        events.sort(key=lambda e: arrival[id(e)])
        by_partition: list[list[Any]] = [[] for _ in range(PARTITIONS)]
        for event in events:
            by_partition[int(str(event.request_id)[1:]) % PARTITIONS].append(event)
        for partition in reversed(range(PARTITIONS)):
            sent += [
                producer.send(
                    topic,
                    key=str(event.request_id).encode(),
                    value=as_record(event),
                    timestamp_ms=event.event_time,
                    partition=partition,
                )
                for event in by_partition[partition]
            ]
    sent.append(
        producer.send("actions", value=b'{"broken', timestamp_ms=START + 5_000, partition=1)
    )
    # bounded disorder moves on with a later event only, and needs one in every partition
    far = START + 3_600_000
    for partition in range(PARTITIONS):
        last = Request(f"far{partition}", "u", far, ("i",))
        late = Action(f"far{partition}", "u", "i", f"far{partition}", "click", None, far)
        for topic, event in (("features", last), ("actions", late)):
            sent.append(
                producer.send(topic, value=as_record(event), timestamp_ms=far, partition=partition)
            )
    producer.flush()
    for future in sent:
        future.get(timeout=30)  # an asynchronous send says only here that it was refused
    producer.close()


def test_unbounded_job_over_a_real_broker(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    for topic in ("features", "actions"):
        kafka_broker.create_topic(topic, partitions=PARTITIONS)
    requests, actions = traffic()
    produce(kafka_broker.bootstrap_servers, requests, actions)
    # nothing is late within the bounds, so the order of arrival is of no matter
    truth = oracle.expected(Timeline((*requests, *actions), START + 3_600_000), RULES)

    output, config = tmp_path / "out", tmp_path / "pipeline.toml"
    config.write_text(
        CONFIG.format(
            servers=kafka_broker.bootstrap_servers,
            output=output,
            checkpoints=tmp_path / "checkpoints",
        )
    )
    log = tmp_path / "job.log"
    with started(["--config", str(config)], log) as job:

        def all_rows() -> list[dict[str, Any]]:
            assert job.poll() is None, log.read_text()
            found = running.rows(output, "samples")
            return found if len(found) >= len(truth.rows) else []

        rows = wait_until(all_rows, 150, "all samples to be written", every_s=0.5)
        rejected = wait_until(
            lambda: running.rows(output, "rejected"), 60, "the rejected record", every_s=0.5
        )

    found_rows = {(r["request_id"], r["position"]): r for r in rows}
    assert len(found_rows) == len(rows) == len(truth.rows)
    for row in truth.rows:
        found = found_rows[row.request_id, row.position]
        assert found["label_click"] == row.labels["click"], row
        assert found["delay_click_ms"] == row.delays["click"], row
        assert found["mature_click"]
    assert running.rows(output, "late_actions") == []
    (bad,) = rejected
    assert (bad["reason"], bad["origin"], bad["partition"]) == ("broken_json", "actions", 1)
    assert bad["raw"] == b'{"broken'
    assert bad["record_time"] == START + 5_000


def test_a_missing_topic_and_a_dead_broker_are_one_line(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    config = tmp_path / "pipeline.toml"
    config.write_text(
        CONFIG.format(
            servers=kafka_broker.bootstrap_servers, output=tmp_path / "out", checkpoints=tmp_path
        )
    )
    arguments = ("jobs.join_samples", "--config", str(config))
    missing = running.run_module(*arguments, "--set=sources.features.topic=nowhere")
    assert missing.returncode == 2
    (line,) = missing.stderr.strip().splitlines()
    assert "sources.features.topic: there is no topic 'nowhere'" in line

    dead = running.run_module(*arguments, "--set=sources.features.bootstrap_servers=127.0.0.1:1")
    assert dead.returncode == 2
    (line,) = dead.stderr.strip().splitlines()
    assert "no Kafka broker answers at 127.0.0.1:1" in line
