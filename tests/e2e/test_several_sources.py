"""Two sources of features and two of actions over a real broker, each with a shape, a format and a
watermark of its own. The order system lags; the job is restored at another parallelism meanwhile.
"""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastavro
import pytest
from kafka import KafkaProducer

from services.kafka_broker import KafkaBroker
from services.waiting import wait_until
from tests import oracle
from tests.e2e.local_job import started
from tests.flink import running
from tests.timeline import Action, Request, Rules, Timeline
from tests.unit.test_several_sources import HEAD, ORDERS

START = 1_700_000_000_000
FAR = START + 3_600_000
REQUESTS = 240
DEADLINE_S = 300
RULES = Rules(
    "request_id", {"click": 10_000, "purchase": 60_000}, {"click": "count", "purchase": "sum"}
)
ITEM = {
    "type": "record",
    "name": "Item",
    "fields": [{"name": "item_id", "type": "string"}, {"name": "price", "type": "double"}],
}
SCHEMA = {
    "type": "record",
    "name": "Ranked",
    "fields": [
        {"name": "request_id", "type": "string"},
        {"name": "user_id", "type": "string"},
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "items", "type": {"type": "array", "items": ITEM}},
    ],
}
#: The first part is that of the tests without a broker, whose web has another shape.
CONFIG = f"""{HEAD}{ORDERS}
[runtime]
parallelism = 2
checkpoint_interval = "1s"
[events.features.app]
request_id = "req"
user_id = "who"
event_time = "ts"
items = "shown"
item_id = ".sku"
fields = {{ price = {{ path = ".cents", divide = 100 }} }}
[events.features.web]
request_id = "request_id"
user_id = "user_id"
event_time = {{ path = "event_time", unit = "us" }}
items = "items"
item_id = ".item_id"
"""
TOPICS = {"features.app": 2, "features.web": 3, "actions.clicks": 2, "actions.orders": 2}


def configuration(folder: Path, servers: str) -> Path:
    text = CONFIG
    for name in TOPICS:
        text += f'[sources.{name}]\ntype = "kafka"\ntopic = "{topic(name)}"\n'
        text += f'bootstrap_servers = "{servers}"\nout_of_orderness = "2s"\n'
        # all but the order system are told to their ends at once, and then hold no time back
        text += f'idle_timeout = "{"10min" if name == "actions.orders" else "5s"}"\n'
        if name == "features.web":
            text += 'format = { type = "avro", schema = "ranked.avsc" }\n'
    (folder / "ranked.avsc").write_text(json.dumps(SCHEMA))
    path = folder / "pipeline.toml"
    path.write_text(text)
    return path


def topic(name: str) -> str:
    return f"several-{name.replace('.', '-')}"


def traffic() -> tuple[list[Request], list[Action]]:
    """A request a second, with clicks and purchases about the edges of their windows."""
    requests = [
        Request(f"r{i}", f"u{i % 17}", START + i * 1_000, (f"i{i % 9}", "j"))
        for i in range(REQUESTS)
    ]
    actions: list[Action] = []
    for i, request in enumerate(requests):
        who = (request.user_id, request.items[i % 2], request.request_id)
        click, order = (0, 10_000, 10_001)[i % 3], (0, 30_000, 60_000, 60_001)[i % 4]
        actions.append(Action(f"c{i}", *who, "click", None, request.event_time + click))
        if i % 5:
            actions.append(Action(f"o{i}", *who, "purchase", 2.5, request.event_time + order))
    return requests, actions


def source_of(event: Request | Action) -> str:
    if isinstance(event, Request):
        return "features.app" if int(event.request_id[1:]) % 2 else "features.web"
    return "actions.clicks" if event.action == "click" else "actions.orders"


def record(name: str, event: Request | Action) -> bytes:
    if isinstance(event, Action):
        if name == "actions.clicks":
            return json.dumps({k: v for k, v in vars(event).items() if v is not None}).encode()
        who = {"basket": event.request_id, "customer": event.user_id, "sku": event.item_id}
        order = {"order": event.event_id, "at": event.event_time, "cents": 250}
        return json.dumps(who | order).encode()
    who = {"request_id": event.request_id, "user_id": event.user_id}
    if name == "features.app":
        shown = [{"sku": item, "cents": 50} for item in event.items]
        app = {"req": event.request_id, "who": event.user_id}
        return json.dumps(app | {"ts": event.event_time, "shown": shown}).encode()
    out = io.BytesIO()
    items = [{"item_id": item, "price": 0.5} for item in event.items]
    # the writer takes the number for a time of the logical type as it is
    web = who | {"event_time": event.event_time * 1000, "items": items}
    fastavro.schemaless_writer(out, fastavro.parse_schema(SCHEMA), web)
    return out.getvalue()


def produce(servers: str, events: Sequence[Request | Action], ended: Sequence[str]) -> None:
    """Each record to the topic of its source. `ended`: sources of which all has been told."""
    producer = KafkaProducer(bootstrap_servers=servers)
    sent: list[Any] = []
    for event in events:
        name = source_of(event)
        where = int(str(event.request_id)[1:]) % TOPICS[name]
        time = event.event_time
        value = record(name, event)
        sent.append(producer.send(topic(name), value=value, timestamp_ms=time, partition=where))
    for name in ended:
        for partition in range(TOPICS[name]):
            far: Request | Action = Action("f", "u", "i", "r-far", "purchase", 1.0, FAR)
            if name.startswith("features"):
                far = Request(f"far-{name}-{partition}", "u", FAR, ("i",))
            elif name == "actions.clicks":
                far = Action("f", "u", "i", "r-far", "click", None, FAR)
            value = record(name, far)
            sent.append(
                producer.send(topic(name), value=value, timestamp_ms=FAR, partition=partition)
            )
    producer.flush()
    for future in sent:
        future.get(timeout=30)
    producer.close()


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_an_order_system_that_lags_makes_no_negatives(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    servers = kafka_broker.bootstrap_servers
    for name, partitions in TOPICS.items():
        kafka_broker.create_topic(topic(name), partitions=partitions)
    requests, actions = traffic()
    truth = oracle.expected(Timeline((*requests, *actions), FAR), RULES)
    # the order system has told of the first third
    told = START + REQUESTS * 1_000 // 3
    orders = sorted(
        (a for a in actions if a.action == "purchase"), key=lambda action: action.event_time
    )
    first = [a for a in orders if a.event_time <= told]
    rest = [a for a in orders if a.event_time > told]
    clicks = [a for a in actions if a.action == "click"]
    ended = ("features.app", "features.web", "actions.clicks")
    produce(servers, [*requests, *clicks, *first], ended)
    producer = KafkaProducer(bootstrap_servers=servers)
    producer.send(topic("actions.orders"), value=b'{"broken', timestamp_ms=START).get(timeout=30)
    producer.close()

    config, output = configuration(tmp_path, servers), tmp_path / "out"
    early = [row for row in truth.rows if row.event_time + 60_000 < told - 6_000]
    log = tmp_path / "job.log"
    with started(["--config", str(config)], log) as job:

        def rows(count: int) -> list[dict[str, Any]]:
            assert job.poll() is None, log.read_text()
            found = running.rows(output, "samples")
            return found if len(found) >= count else []

        before = wait_until(lambda: rows(len(early)), DEADLINE_S, "the first samples", every_s=0.5)
        assert max(row["event_time"] for row in before) + 60_000 <= told
        job.send_signal(signal.SIGTERM)
        job.wait(timeout=90)
    again = ["--config", str(config), "--restore", "latest", "--set", "runtime.parallelism=1"]
    with started(again, log) as job:
        produce(servers, rest, ["actions.orders"])
        wait_until(lambda: rows(len(truth.rows)), DEADLINE_S, "all samples", every_s=0.5)

    found = {(row["request_id"], row["position"]): row for row in running.rows(output, "samples")}
    assert len(found) == len(truth.rows) == len(running.rows(output, "samples"))
    for row in truth.rows:
        of = found[row.request_id, row.position]
        labels = {kind: of[f"label_{kind}"] for kind in RULES.windows}
        assert labels == dict(row.labels), row
        assert {kind: of[f"delay_{kind}_ms"] for kind in RULES.windows} == dict(row.delays), row
        assert of["mature_click"]
        assert of["mature_purchase"]
        assert of["price"] == 0.5
    (bad,) = (r for r in running.rows(output, "rejected") if r["reason"] == "broken_json")
    assert (bad["stream"], bad["origin"]) == ("actions", topic("actions.orders"))
    audit = running.run_module("tools.audit", "--config", str(config))
    assert audit.returncode == 0, audit.stdout + audit.stderr
