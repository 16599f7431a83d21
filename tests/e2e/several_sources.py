"""A shop with two sources of features and two of actions on a real broker, each with a shape, a
format and a watermark of its own, and the rows that the oracle makes of them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import fastavro
from kafka import KafkaProducer

from services.kafka_broker import KafkaBroker
from tests.flink import running
from tests.timeline import Action, Outcome, Request, Rules
from tests.unit.test_several_sources import HEAD, ORDERS

START = 1_700_000_000_000
FAR = START + 3_600_000
REQUESTS = 240
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
CONFIG = f"""{HEAD}
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


class Shop:
    """Its topics, `<name>-features-app` and so on, in a broker. `idle`: the `idle_timeout` of all
    sources but the order system.
    """

    def __init__(self, broker: KafkaBroker, name: str, *, idle: str = "10min") -> None:
        self.servers = broker.bootstrap_servers
        self._name, self._idle = name, idle
        for source, partitions in TOPICS.items():
            broker.create_topic(self.topic(source), partitions=partitions)

    def topic(self, source: str) -> str:
        return f"{self._name}-{source.replace('.', '-')}"

    def configuration(
        self, path: Path, names: Sequence[str] = tuple(TOPICS), *, archive: str | None = None
    ) -> Path:
        """A pipeline of these sources: topics, or what is kept of them in a folder."""
        text = CONFIG + (ORDERS if "actions.orders" in names else "")
        for name in names:
            text += f'[sources.{name}]\nout_of_orderness = "2s"\n'
            if archive is None:
                idle = "10min" if name == "actions.orders" else self._idle
                text += f'type = "kafka"\ntopic = "{self.topic(name)}"\n'
                text += f'bootstrap_servers = "{self.servers}"\nidle_timeout = "{idle}"\n'
            else:
                text += f'type = "archive"\npath = "{archive}"\nincomplete = "read"\n'
            if name == "features.web":
                text += 'format = { type = "avro", schema = "ranked.avsc" }\n'
        if archive is None:
            text += '[archive]\npath = "kept"\n'
        (path.parent / "ranked.avsc").write_text(json.dumps(SCHEMA))
        path.write_text(text)
        return path

    def tell(
        self, events: Sequence[Request | Action], *, ended: Sequence[str] = (), far: int = FAR
    ) -> None:
        """Each record to the topic of its source. `ended`: sources of which all has been told, with
        a record at the time `far` in each partition.
        """
        sent = [(self._where(event), event) for event in events]
        for name in ended:
            sent += [((name, part), _far(name, part, far)) for part in range(TOPICS[name])]
        producer = KafkaProducer(bootstrap_servers=self.servers)
        futures = [
            producer.send(
                self.topic(name),
                value=record(name, event),
                timestamp_ms=event.event_time,
                partition=part,
            )
            for (name, part), event in sent
        ]
        producer.flush()
        for future in futures:
            future.get(timeout=30)
        producer.close()

    def _where(self, event: Request | Action) -> tuple[str, int]:
        name = source_of(event)
        # those of a source are every second one
        return name, number(event) // 2 % TOPICS[name]


def number(event: Request | Action) -> int:
    """Of the request, or of that which the action is about."""
    return int(str(event.request_id)[1:])


def _far(name: str, partition: int, time: int) -> Request | Action:
    if name.startswith("features"):
        return Request(f"far-{name}-{partition}-{time}", "u", time, ("i",))
    if name == "actions.clicks":
        return Action("f", "u", "i", "r-far", "click", None, time)
    return Action("f", "u", "i", "r-far", "purchase", 1.0, time)


def traffic(start: int = START) -> tuple[list[Request], list[Action]]:
    """A request a second from `start` on, with actions about the edges of their windows."""
    requests = [
        Request(f"r{i}", f"u{i % 17}", start + i * 1_000, (f"i{i % 9}", "j"))
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
        return "features.app" if number(event) % 2 else "features.web"
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


def check_rows(output: Path, truth: Outcome) -> None:
    """The samples and the late actions are those of the oracle, each once."""
    rows = [r for r in running.rows(output, "samples") if not r["request_id"].startswith("far")]
    found = {(row["request_id"], row["position"]): row for row in rows}
    assert len(found) == len(rows) == len(truth.rows)
    for row in truth.rows:
        of = found[row.request_id, row.position]
        labels = {kind: of[f"label_{kind}"] for kind in RULES.windows}
        assert labels == dict(row.labels), row
        assert {kind: of[f"delay_{kind}_ms"] for kind in RULES.windows} == dict(row.delays), row
        assert of["mature_click"]
        assert of["mature_purchase"]
        assert of["price"] == 0.5
    late = [(row["request_id"], row["event_id"]) for row in running.rows(output, "late_actions")]
    assert sorted(late) == sorted((one.sample[0], one.identity.event_id) for one in truth.late)
