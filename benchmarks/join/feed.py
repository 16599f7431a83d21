"""A steady load for the latency: ``python -m benchmarks.join.feed JSON``, with the peers' Python.

Sends requests and clicks as they happen, each with the time of sending as its time, and writes down
when Kafka acknowledged each. Confluent's client does that with little CPU, of which the job has
the rest.
"""

from __future__ import annotations

import heapq
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

#: Different requests; after that they repeat, with other ids and times.
_TEMPLATES = 200
_TICK_S = 0.002


@dataclass(frozen=True)
class Feed:
    """`rate`: requests a second. `acks`: the file to write, {stream: [[time, acknowledged], ...]}
    in ms.
    """

    servers: str
    topics: str
    rate: int
    seconds: float
    items: int
    features: int
    click_percent: int
    window_ms: int
    acks: str

    def to_json(self) -> str:
        """The argument of the feeding process."""
        return json.dumps(asdict(self))


def run(feed: Feed) -> None:
    """Sends for `seconds`, then writes `acks`."""
    from confluent_kafka import Producer

    random.seed(1)
    templates = [_request(feed) for _ in range(_TEMPLATES)]
    acks: dict[str, list[tuple[int, int]]] = {"features": [], "actions": []}
    producer = Producer(
        {
            "bootstrap.servers": feed.servers,
            "linger.ms": 2,
            "queue.buffering.max.messages": 1_000_000,
        }
    )

    def acknowledged(stream: str, at: int, error: Any, _message: Any) -> None:
        if error is not None:
            raise RuntimeError(f"{stream}: {error}")
        acks[stream].append((at, _now()))

    def send(stream: str, value: str, at: int) -> None:
        producer.produce(
            f"{feed.topics}-{stream}",
            value.encode(),
            timestamp=at,
            on_delivery=partial(acknowledged, stream, at),
        )

    started, sent = time.monotonic(), 0
    waiting: list[tuple[int, int, int]] = []
    while (elapsed := time.monotonic() - started) < feed.seconds:
        now = _now()
        while sent < elapsed * feed.rate:
            rest = templates[sent % _TEMPLATES]
            send("features", f'{{"request_id":"r{sent}","event_time":{now},{rest}', now)
            for item in range(feed.items):
                if random.random() < feed.click_percent / 100:
                    heapq.heappush(waiting, (now + random.randrange(feed.window_ms), sent, item))
            sent += 1
        while waiting and waiting[0][0] <= now:
            _, number, item = heapq.heappop(waiting)
            send(
                "actions",
                f'{{"event_id":"e{number}-{item}","user_id":"u{number % 1000}","item_id":"i{item}",'
                f'"request_id":"r{number}","action":"click","event_time":{now}}}',
                now,
            )
        producer.poll(_TICK_S)
    producer.flush(30)
    Path(feed.acks).write_text(json.dumps(acks))


def _request(feed: Feed) -> str:
    """What stands behind the time of a request."""
    doubles = feed.features // 2
    items = []
    for n in range(feed.items):
        values = {f"d{i}": random.random() for i in range(doubles)} | {
            f"s{i}": f"v{random.randrange(1000)}" for i in range(feed.features - doubles)
        }
        items.append({"item_id": f"i{n}", "features": values})
    rest = json.dumps({"user_id": "u1", "context": {}, "items": items}, separators=(",", ":"))
    return rest[1:]


def _now() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    run(Feed(**json.loads(sys.argv[1])))
