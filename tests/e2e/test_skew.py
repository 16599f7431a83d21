"""Partitions and streams that are far apart, a burst, and an hour in which nothing happens.

Real Kafka, a real cluster, an unbounded job with more partitions than subtasks, or fewer. What it
has written at the end is what the oracle says, row by row, and its state is then small again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from schemas.events import STREAMS, Stream
from services.flink_cluster import FlinkCluster
from services.kafka_broker import KafkaBroker
from services.waiting import wait_until
from tests import oracle
from tests.e2e import two_kinds
from tests.e2e.cluster_job import Job
from tests.e2e.outcomes import check_written, send
from tests.flink import running
from tests.timeline import Action, Request, Timeline

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
#: The beginning of an hour.
START = 1_699_999_200_000
WINDOW = 10 * MINUTE
RULES = two_kinds.rules(WINDOW)
#: Between requests, usually and in the burst, which lasts for two minutes.
USUALLY, IN_A_BURST = 10 * SECOND, SECOND
BURST = START + 2 * HOUR + 10 * MINUTE
#: Nothing happens from the end of the third hour on.
QUIET, ENDS = START + 3 * HOUR, START + 4 * HOUR + 30 * MINUTE
DEADLINE_S = 240

Event = Request | Action


def traffic(seed: int, partitions: int) -> list[Event]:
    """Four and a half hours, in the order of time; user u<p> has the partition p of both topics."""
    rng = random.Random(seed)
    events: list[Event] = []
    at, number = START, 0
    while at < ENDS:
        name, user = f"r{number}", f"u{number % partitions}"
        events.append(Request(name, user, at, ("a", "b", "c")))
        for item in ("a", "b"):
            delay = rng.choice((0, SECOND, rng.randrange(WINDOW), WINDOW, WINDOW + 1))
            kind = rng.choice(("click", "buy"))
            action = Action(f"{name}{item}", user, item, name, kind, 2.5, at + delay)
            events.append(action)
        at += IN_A_BURST if BURST <= at < BURST + 2 * MINUTE else USUALLY
        if QUIET <= at < QUIET + HOUR:
            at = QUIET + HOUR
        number += 1
    # time ends in every partition, and in both streams at once
    for p in range(partitions):
        end = ENDS + HOUR
        events.append(Request(f"end{p}", f"u{p}", end, ("a",)))
        events.append(Action(f"end{p}", f"u{p}", "a", f"end{p}", "click", None, end))
    return sorted(events, key=lambda event: event.event_time)


def of(events: Iterable[Event], stream: Stream, start: int, end: int) -> list[Event]:
    """Those of a stream from one time up to another."""
    kind = Request if stream == "features" else Action
    return [e for e in events if isinstance(e, kind) and start <= e.event_time < end]


@pytest.mark.thorough
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("partitions", "subtasks"), [(3, 2), (1, 2)])
def test_far_apart_a_burst_and_an_hour_of_nothing(
    kafka_broker: KafkaBroker,
    flink_cluster: FlinkCluster,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    partitions: int,
    subtasks: int,
) -> None:
    """With fewer partitions than subtasks time begins when a subtask without one counts as idle,
    which it does not here; so the job is then gone on with at another parallelism.
    """
    name = f"skew-{partitions}-{subtasks}"
    servers = kafka_broker.bootstrap_servers
    for stream in ("features", "actions"):
        kafka_broker.create_topic(f"{name}-{stream}", partitions=partitions)
    config, output = tmp_path / "pipeline.toml", tmp_path / "out"
    config.write_text(two_kinds.toml(WINDOW, name, servers, tmp_path))

    def start(parallelism: int, savepoint: str | None = None) -> Job:
        submitted = flink_cluster.run(
            running.ROOT / "jobs" / "join_samples.py",
            ["--config", str(config)],
            parallelism=parallelism,
            savepoint=savepoint,
        )
        job = Job(flink_cluster, submitted.job_id)
        request.addfinalizer(job.end)
        return job

    job = start(subtasks)
    events = traffic(3, partitions)
    sent: Counter[str] = Counter()
    #: Of the job that runs now.
    unread: Counter[str] = Counter()

    def produce(stream: Stream, start: int, end: int, which: Iterable[int]) -> None:
        chosen = [e for e in of(events, stream, start, end) if int(e.user_id[1:]) in which]
        sent[stream] += len(chosen)
        unread[stream] += len(chosen)
        send(servers, name, ((int(e.user_id[1:]), e) for e in chosen))

    def all_read() -> None:
        for stream in STREAMS:
            job.wait_until_read(stream, unread[stream])

    def waiting() -> tuple[int, int]:
        """How many requests are pending, and how many actions are held."""
        return job.metric("join", "pending_requests"), job.metric("join", "held_actions")

    def wait_for_waiting(requests: int, actions: int) -> None:
        wait_until(
            lambda: job.goes_on() and waiting() == (requests, actions),
            DEADLINE_S,
            f"{requests} requests and {actions} actions to wait",
            every_s=0.25,
        )

    def settled_before(time: int) -> bool:
        """The rows are those of requests that are settled when time is this, and no others."""
        due = [e for e in requests if RULES.deadline(e.event_time) < time]
        rows = running.rows(output, "samples", ["event_time"])
        assert max((r["event_time"] for r in rows), default=0) < time - WINDOW
        return job.goes_on() and len(rows) == sum(len(e.items) for e in due)

    def wait_for_settled_before(time: int) -> None:
        what = f"rows up to {time}"
        wait_until(lambda: settled_before(time), DEADLINE_S, what, every_s=0.25)

    requests = [e for e in events if isinstance(e, Request) and e.event_time < ENDS]
    every, one = range(partitions), [0]
    others = every[1:]
    # the streams are two hours apart, and the partitions of one of them an hour more
    produce("features", START, START + 3 * HOUR, others)
    produce("features", START, START + 2 * HOUR, one)
    all_read()
    assert running.rows(output, "samples") == []
    wait_for_waiting(sent["features"], 0)
    far_apart = job.state_bytes()
    produce("actions", START, START + HOUR, every)
    all_read()
    if partitions < subtasks:
        # all is read and kept, as if a partition had not shown anything yet
        assert running.rows(output, "samples") == []
        wait_for_waiting(sent["features"], sent["actions"])
        savepoint = flink_cluster.stop_job(job.id, tmp_path / "savepoints")
        unread.clear()
        job = start(partitions, savepoint)
    else:
        first = of(events, "actions", START, START + HOUR)
        last = [max(e.event_time for e in first if e.user_id == f"u{p}") for p in every]
        wait_for_settled_before(min(last))
    # all catch up, with a burst, and an hour of event time passes at once
    produce("features", START + 2 * HOUR, START + 3 * HOUR, one)
    produce("actions", START + HOUR, QUIET + HOUR, every)
    produce("features", START + 3 * HOUR, ENDS + 2 * HOUR, every)
    produce("actions", QUIET + HOUR, ENDS + 2 * HOUR, every)
    all_read()
    assert sum(sent.values()) == len(events)
    wait_for_settled_before(ENDS + HOUR)
    # what has waited is gone: but for the ends, nothing is kept of it
    wait_for_waiting(partitions, partitions)
    job.wait_for_checkpoints(1)
    assert job.state_bytes() < far_apart / 2
    flink_cluster.stop_job(job.id, tmp_path / "drained", drain=True, deadline_s=DEADLINE_S)

    truth = oracle.expected(Timeline(tuple(events), ENDS + HOUR), RULES)
    assert len(truth.late) > 100
    assert not {r.reason for r in truth.rejected}
    check_written(output, RULES, truth)
