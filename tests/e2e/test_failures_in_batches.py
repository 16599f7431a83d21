"""Batches that fail when half of them is done: every row once, and no other.

Real Kafka, a real cluster. Nothing depends on how fast anything is: a failure is asked for when
the present attempt has made rows visible, and events are produced until it has happened. Then comes
the next one.
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.flink_cluster import FlinkCluster
from services.kafka_broker import KafkaBroker
from services.waiting import wait_until
from tests import oracle
from tests.e2e import two_kinds
from tests.e2e.cluster_job import Job
from tests.e2e.failing_batches import SAID, WHERE, Where
from tests.e2e.outcomes import check_written, send
from tests.e2e.test_time import HOUR, RULES, SECOND, START, WINDOW
from tests.flink import running
from tests.timeline import Action, Key, Request, Timeline

PARTITIONS, USERS = 2, 6
#: Of event time, with the events of one sending.
BURST = 20 * SECOND
DEADLINE_S = 240
#: A failure is gone on from within the job; others than these are not, for long.
RESTARTS = """
[flink]
"restart-strategy.type" = "fixed-delay"
"restart-strategy.fixed-delay.attempts" = "20"
"restart-strategy.fixed-delay.delay" = "100 ms"
"""
#: What the job says of each.
ERRORS: dict[Where, str] = {
    "decode-records": SAID,
    "decode-events": "RecordBatches.perform",
    "join-steps": SAID,
    "join-state": "KeyedBatches.perform",
    "join-samples": "KeyedBatches.perform",
}

Event = Request | Action


class Traffic:
    """Requests and actions without an end, sent to Kafka in bursts, in the order of time."""

    def __init__(self, servers: str, name: str, seed: int) -> None:
        self._servers, self._name = servers, name
        self._rng = random.Random(seed)
        self._until = START
        self._later: list[tuple[int, int, Event]] = []
        self._made = 0
        self.sent: list[Event] = []

    def burst(self) -> None:
        """So many events that any batch of them is a large one."""
        rng = self._rng
        for at in range(self._until, self._until + BURST, SECOND // 2):
            name, user = f"r{self._made}", f"u{rng.randrange(USERS)}"
            self._make(Request(name, user, at, ("a", "b", "c")))
            for item in ("a", "b"):
                after = rng.choice((0, SECOND, rng.randrange(WINDOW), WINDOW, WINDOW + 1))
                kind = rng.choice(("click", "buy"))
                event = f"{name}{item}"
                self._make(Action(event, user, item, name, kind, 2.5, at + after))
        self._until += BURST
        self._send(self._until)

    def end(self) -> int:
        """What is left, and behind it the end of time in all partitions; returns that time."""
        end = self._until + HOUR
        for user in range(PARTITIONS):
            self._make(Request(f"end{user}", f"u{user}", end, ("a",)))
            self._make(Action(None, f"u{user}", "a", f"end{user}", "click", None, end))
        self._send(end + 1)
        return end

    def _make(self, event: Event) -> None:
        heapq.heappush(self._later, (event.event_time, self._made, event))
        self._made += 1

    def _send(self, before: int) -> None:
        events = []
        while self._later and self._later[0][0] < before:
            events.append(heapq.heappop(self._later)[2])
        self.sent += events
        send(self._servers, self._name, ((int(e.user_id[1:]) % PARTITIONS, e) for e in events))


@pytest.mark.thorough
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("key", "backend", "parallelism"), [("request_id", "rocksdb", 1), ("user_id", "hashmap", 2)]
)
def test_batches_that_fail_when_half_of_them_is_done(
    kafka_broker: KafkaBroker,
    flink_cluster: FlinkCluster,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    key: Key,
    backend: str,
    parallelism: int,
) -> None:
    name = f"batches-{tmp_path.name}"
    servers = kafka_broker.bootstrap_servers
    for stream in ("features", "actions"):
        kafka_broker.create_topic(f"{name}-{stream}", partitions=PARTITIONS)
    output, failures = tmp_path / "out", tmp_path / "failures"
    failures.mkdir()
    text = two_kinds.toml(WINDOW, name, servers, tmp_path)
    text += f'state_backend = "{backend}"\n{RESTARTS}[join]\nkey = "{key}"\n'
    (tmp_path / "pipeline.toml").write_text(text)
    submitted = flink_cluster.run(
        running.ROOT / "tests" / "e2e" / "failing_batches.py",
        [str(failures), str(tmp_path / "pipeline.toml")],
        parallelism=parallelism,
    )
    job = Job(flink_cluster, submitted.job_id)
    traffic = Traffic(servers, name, seed=parallelism)

    def visible() -> int:
        return len(running.rows(output, "samples", ["event_time"]))

    def send_until(condition: Callable[[], bool], what: str) -> None:
        def more() -> bool:
            traffic.burst()
            return job.goes_on() and condition()

        wait_until(more, DEADLINE_S, what, every_s=1.0)

    def fail(where: Where) -> None:
        rows, restored, newest = visible(), job.restored(), job.newest_exception()[0]
        send_until(lambda: visible() > rows, f"rows before {where}")
        (failures / f"{where}.due").touch()
        happened = failures / f"{where}.happened"
        send_until(happened.exists, where)
        done, of = json.loads(happened.read_text())
        assert 0 < done < of
        what = f"the job to be restored after {where}"
        wait_until(lambda: job.goes_on() and job.restored() > restored, DEADLINE_S, what)

        # The job manager's answers are some seconds old, and two failures say the same.
        def is_told() -> bool:
            time, text = job.newest_exception()
            return time > newest and ERRORS[where] in text

        wait_until(is_told, DEADLINE_S, ERRORS[where])

    request.addfinalizer(job.end)
    for where in WHERE:
        fail(where)
    end = traffic.end()

    rules = replace(RULES, key=key)
    truth = oracle.expected(Timeline(tuple(traffic.sent), end), rules)
    assert len(truth.late) > 10
    due = sum(row.request_id[:3] != "end" for row in truth.rows)
    wait_until(lambda: job.goes_on() and visible() == due, DEADLINE_S, "all rows", every_s=0.25)
    flink_cluster.stop_job(job.id, tmp_path / "drained", drain=True, deadline_s=DEADLINE_S)
    assert job.restored() == len(WHERE)
    check_written(output, rules, truth)
