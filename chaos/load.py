"""Steady traffic at the speed of the clock, and what must become of each part of it.

A *story* is a request with its actions, or an action whose request never comes. All times in it
follow from its number and the seed, except for the moment at which it begins. So its outcome is
known when it begins, and no story depends on another one.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from dataclasses import dataclass
from typing import Any

from kafka import KafkaProducer

from tests.e2e.outcomes import as_record
from tests.timeline import Action, Request, Rules

SECOND = 1_000
PARTITIONS = 6
#: Records come up to so much later than their time; the sources allow for twice as much (ms).
DISORDER = 500
RULES = Rules(
    "request_id",
    {"click": 2 * SECOND, "buy": 4 * SECOND},
    {"click": "count", "buy": "sum"},
    horizon=6 * SECOND,
)
#: The requests that close the time before a drain; what becomes of them is not compared.
CLOSER = "far"


@dataclass(frozen=True)
class Story:
    """A request with its actions, in the order of their times."""

    events: tuple[Request | Action, ...]

    @property
    def decided_at(self) -> int:
        """The event time (ms) at which the fate of all of it is decided."""
        return max(event.event_time for event in self.events) + RULES.longest


def story(number: int, begins: int, seed: int) -> Story:
    """Story `number`, whose request is at `begins` (ms): edges, copies, and what is too late."""
    rng = random.Random(f"{seed}/{number}")
    name, user = f"r{number}", f"u{number % 97}"
    items = tuple(f"i{rng.randrange(40)}" for _ in range(3))
    request = Request(name, user, begins, items)
    events: list[Request | Action] = [request]
    offsets = {
        "click": (0, 1, 700, 1_999, 2_000, 2_001),
        "buy": (3, 2_500, 4_000, 4_001, 5_900),
        "teleport": (500,),
    }
    for position, item in enumerate(dict.fromkeys(items)):
        if rng.random() < 0.45:
            kind = rng.choice(("click", "click", "click", "buy", "buy", "teleport"))
            at = begins + rng.choice(offsets[kind])
            value = round(rng.random(), 3) if kind == "buy" else None
            action = Action(f"e{number}-{position}", user, item, name, kind, value, at)
            events += [action, action] if rng.random() < 0.08 else [action]
    if rng.random() < 0.03:
        events = events[1:]  # its request never comes: orphans
    elif rng.random() < 0.03:
        events.append(request)
    return Story(tuple(sorted(events, key=lambda event: event.event_time)) or (request,))


class Load:
    """Sends `rate` stories a second from a thread of its own, between `start` and `finish`."""

    def __init__(self, servers: str, topics: tuple[str, str], *, seed: int, rate: float) -> None:
        """Describe a load; nothing is sent. `topics` are those of features and actions."""
        self._servers = servers
        self._topics = topics
        self._seed = seed
        self._rate = rate
        self._begun: list[Story] = []
        self._due: list[tuple[float, int, int, Request | Action]] = []
        self._order = itertools.count()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="load", daemon=True)
        self._failure: BaseException | None = None
        self.records = 0

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stories(self) -> list[Story]:
        """Those that have begun."""
        return list(self._begun)

    def check(self) -> None:
        """Raise what ended the thread, if something did: then the truth is not what was sent."""
        if self._failure is not None:
            raise RuntimeError("the load could not be sent") from self._failure

    def finish(self, deadline_s: float = 120) -> None:
        """Send the rest of all stories, close the time, and wait until Kafka has everything."""
        self._closing.set()
        self._thread.join(deadline_s)
        self.check()
        if self._thread.is_alive():
            raise RuntimeError(f"the load was not sent within {deadline_s:g} s")

    def _send_all(self) -> None:
        try:
            self._send()
        except BaseException as error:  # `check` tells the other thread
            self._failure = error

    def _send(self) -> None:
        # A record that was sent twice or in another order would change the truth.
        producer = KafkaProducer(
            bootstrap_servers=self._servers,
            enable_idempotence=True,
            acks="all",
            retries=10_000,
            delivery_timeout_ms=600_000,
            max_block_ms=600_000,
            request_timeout_ms=5_000,
            max_in_flight_requests_per_connection=1,
            linger_ms=10,
        )
        rng = random.Random(self._seed)
        sent: list[Any] = []
        begins = time.time()
        while not self._closing.is_set() or self._due:
            now = time.time()
            while begins <= now and not self._closing.is_set():
                self._begin(story(len(self._begun), round(begins * SECOND), self._seed), rng)
                begins += 1 / self._rate
            while self._due and self._due[0][0] <= now:
                _, _, partition, event = heapq.heappop(self._due)
                sent.append(self._to_kafka(producer, partition, event))
            done = [future for future in sent if future.is_done]
            for future in done:
                future.get()
            sent = [future for future in sent if not future.is_done]
            time.sleep(0.02)
        # every story is decided only when all partitions are past it
        time.sleep((RULES.longest + 2 * DISORDER) / SECOND)
        at = round(time.time() * SECOND) + 2 * DISORDER
        for partition in range(PARTITIONS):
            name = f"{CLOSER}{partition}"
            for event in (
                Request(name, "u0", at, ("i0",)),
                Action(None, "u0", "i0", name, "click", None, at),
            ):
                sent.append(self._to_kafka(producer, partition, event))
        producer.flush()
        for future in sent:
            future.get(timeout=120)
        producer.close()

    def _begin(self, begun: Story, rng: random.Random) -> None:
        number = len(self._begun)
        self._begun.append(begun)
        for event in begun.events:
            at = (event.event_time + rng.randrange(DISORDER)) / SECOND
            heapq.heappush(self._due, (at, next(self._order), number % PARTITIONS, event))

    def _to_kafka(self, producer: Any, partition: int, event: Request | Action) -> Any:
        self.records += 1
        return producer.send(
            self._topics[0 if isinstance(event, Request) else 1],
            value=as_record(event),
            timestamp_ms=event.event_time,
            partition=partition,
        )
