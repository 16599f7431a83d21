"""Events of timelines as Kafka records, and the rows of a job in the words of the oracle."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from kafka import KafkaProducer

from tests.flink import running
from tests.timeline import (
    END,
    Action,
    ActionIdentity,
    LateAction,
    Outcome,
    Rejection,
    Request,
    Row,
    Rules,
)


def price(request_id: str, position: int) -> float:
    """A feature that is another for every impression."""
    return float(zlib.crc32(f"{request_id}/{position}".encode()))


def as_record(event: Request | Action) -> bytes:
    if isinstance(event, Action):
        return msgspec.json.encode(event)
    items = [
        {"item_id": item, "features": {"price": price(event.request_id, position)}}
        for position, item in enumerate(event.items)
    ]
    return json.dumps(vars(event) | {"items": items}).encode()


def send(servers: str, name: str, events: Iterable[tuple[int, Request | Action]]) -> None:
    """Sends events, each to its partition of `<name>-features` or `<name>-actions`, in order."""
    producer = KafkaProducer(bootstrap_servers=servers)
    sent = [
        producer.send(
            f"{name}-{'features' if isinstance(event, Request) else 'actions'}",
            value=as_record(event),
            timestamp_ms=event.event_time,
            partition=partition,
        )
        for partition, event in events
    ]
    producer.flush()
    for future in sent:
        future.get(timeout=30)  # an asynchronous send says only here that it was refused
    producer.close()


def written(output: Path, rules: Rules) -> Outcome:
    """The visible rows of all three tables, in the words of the oracle."""
    tables = ("samples", "late_actions", "rejected")
    return outcome_of(*(running.rows(output, table) for table in tables), rules=rules)


def outcome_of(
    samples: Sequence[dict[str, Any]],
    late_actions: Sequence[dict[str, Any]],
    rejections: Sequence[dict[str, Any]],
    *,
    rules: Rules,
) -> Outcome:
    """These rows of the three tables, in the words of the oracle."""
    kinds = rules.windows
    for r in samples:
        assert r["price"] == price(r["request_id"], r["position"]), r
    rows = [
        Row(
            r["request_id"],
            r["user_id"],
            r["item_id"],
            r["position"],
            r["event_time"],
            {k: r[f"label_{k}"] for k in kinds},
            {k: r[f"delay_{k}_ms"] for k in kinds},
            {k: r[f"mature_{k}"] for k in kinds},
            END,
            *(r[name] for name in ("observed_ms", "revision", "kind", "exposed", "sampling_rate")),
        )
        for r in samples
    ]
    fields = ("event_id", "action", "item_id", "value", "event_time")
    late = [
        LateAction(
            (r["request_id"], r["position"]),
            r["request_time"],
            ActionIdentity(r[rules.key], *(r[name] for name in fields)),
            r["delay_ms"],
            r["reason"],
        )
        for r in late_actions
    ]
    rejected = []
    for r in rejections:
        record: dict[str, Any] = json.loads(r["raw"])
        identity: Request | ActionIdentity
        if r["stream"] == "features":
            items = tuple(item["item_id"] for item in record.pop("items"))
            identity = Request(**record, items=items)
        else:
            identity = ActionIdentity(record[rules.key], *(record[name] for name in fields))
        rejected.append(Rejection(r["stream"], r["reason"], identity))
    return Outcome(tuple(rows), tuple(late), tuple(rejected))


def check_written(output: Path, rules: Rules, expected: Outcome) -> None:
    """All three tables have exactly the rows that the oracle expects; says which differ."""
    found, due = written(output, rules), replace(expected.without_made_at(), counters={})
    lines, due_lines = Counter(found.lines()), Counter(due.lines())
    missing = list((due_lines - lines).elements())
    doubled_or_wrong = list((lines - due_lines).elements())
    assert (missing, doubled_or_wrong) == ([], [])
    assert found == due
