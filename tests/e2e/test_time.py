"""The time of the job: hours are complete while it runs, over a restart, and when all is quiet.

Real Kafka, a real cluster, an unbounded job. Three hours of requests with rows in all three tables;
the last requests are still waiting when nothing more is produced. Then the job is stopped with a
savepoint, goes on at another parallelism with the other setting of `output.compact`, and gets a
request that is late by what was known before; more requests complete the third hour and wait
themselves; the topics fall idle, and the job is stopped with drain. What it has written by then is
what the oracle says, row by row, and every hour is complete.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.flink_cluster import FlinkCluster
from services.kafka_broker import KafkaBroker
from services.waiting import wait_until
from tests import oracle
from tests.e2e import two_kinds
from tests.e2e.cluster_job import Job
from tests.e2e.outcomes import check_written, send
from tests.flink import running
from tests.timeline import Action, Outcome, Request, Timeline, Watermark

SECOND, HOUR = 1_000, 3_600_000
#: The beginning of an hour.
START = 1_699_999_200_000
WINDOW = 10 * SECOND
RULES = two_kinds.rules(WINDOW)
PARTITIONS = 2
RANDOM_REQUESTS = 300
TABLES = ("samples", "late_actions", "rejected")

Event = Request | Action


def hours(seed: int) -> list[Event]:
    """Three hours, the last of them half, with something for each table in each; and requests with
    clicks at random, in order of time in each partition.
    """
    rng = random.Random(seed)
    events: list[Event] = []
    for i in range(RANDOM_REQUESTS):
        at = START + rng.randrange(2 * HOUR + 1_700 * SECOND)
        user = f"u{rng.randrange(PARTITIONS)}"
        events.append(Request(f"x{i}", user, at, ("a", "b", "c")))
        for item in ("a", "b", "c"):
            after = rng.choice((None, 0, rng.randrange(WINDOW), WINDOW, WINDOW + 1, 2 * WINDOW))
            if after is not None:
                events.append(Action(f"x{i}{item}", user, item, f"x{i}", "click", None, at + after))
    for hour in range(3):
        offsets = (0, 1_800 * SECOND) if hour == 2 else (0, 1_800 * SECOND, HOUR - 1)
        for n, offset in enumerate(offsets):
            for p in range(PARTITIONS):
                at = START + hour * HOUR + offset
                name = f"r{len(events)}"
                events.append(Request(name, f"u{p}", at, ("a", "b")))
                taken: list[tuple[str, str, str, int]] = [(name, "a", "click", 5 * SECOND)]
                if n == 0:
                    taken.append((name, "b", "teleport", 5 * SECOND))  # the decoder's reject
                    taken.append(("nobody", "a", "click", 6 * SECOND))  # an orphan
                    taken.append((name, "b", "click", 15 * SECOND))  # outside of the window
                events += [
                    Action(f"e{len(events)}-{i}", f"u{p}", item, request, kind, None, at + after)
                    for i, (request, item, kind, after) in enumerate(taken)
                ]
    return sorted(events, key=lambda event: event.event_time)


#: Late by what the job had read before it was stopped, though not by its own record's time.
LATE = Request("r-late", "u0", START + SECOND, ("a", "b"))


def later() -> list[Event]:
    """A request and its click in each partition, in the hour after those."""
    events: list[Event] = []
    for p in range(PARTITIONS):
        at = START + 3 * HOUR + 60 * SECOND
        events.append(Request(f"later{p}", f"u{p}", at, ("a", "b")))
        events.append(Action(f"l{p}", f"u{p}", "a", f"later{p}", "click", None, at + 5 * SECOND))
    return events


@dataclass(frozen=True)
class Topics:
    """Two topics of two partitions; a user has one."""

    servers: str
    name: str

    def produce(self, events: Iterable[Event]) -> None:
        send(self.servers, self.name, ((int(e.user_id[1:]), e) for e in events))


def complete(output: Path, table: str) -> dict[str, bool]:
    """The partitions that have files, and whether each is complete."""
    return {
        f"{partition.parent.name}/{partition.name}": (partition / "_SUCCESS").exists()
        for partition in (output / table).glob("dt=*/hr=*")
        if any(partition.glob("*.parquet"))
    }


def hour(number: int) -> str:
    return f"dt=2023-11-14/hr={22 + number}" if number < 2 else f"dt=2023-11-15/hr={number - 2:02}"


def all_idle(job: Job, vertices: Iterable[str], idle_ms: int) -> bool:
    """Whether every reader of these streams has been without a record for so long."""
    return all(min(job.metrics(f"decode {v}", "sourceIdleTime") or [0]) > idle_ms for v in vertices)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("idle", "before", "after", "compact_before"),
    [
        ("features actions", 1, 2, True),
        ("features", 2, 1, False),
        ("actions", 2, 2, True),
    ],
)
def test_hours_are_complete_and_nothing_is_lost(
    kafka_broker: KafkaBroker,
    flink_cluster: FlinkCluster,
    tmp_path: Path,
    idle: str,
    before: int,
    after: int,
    compact_before: bool,
) -> None:
    name = f"time-{idle.replace(' ', '-')}-{before}-{after}"
    topics = Topics(kafka_broker.bootstrap_servers, name)
    for stream in ("features", "actions"):
        kafka_broker.create_topic(f"{name}-{stream}", partitions=PARTITIONS)
    config, output = tmp_path / "pipeline.toml", tmp_path / "out"
    servers = kafka_broker.bootstrap_servers
    config.write_text(two_kinds.toml(WINDOW, name, servers, tmp_path))

    def start(parallelism: int, compact: bool, *sets: str, savepoint: str | None = None) -> Job:
        sets = (*sets, f"output.compact={str(compact).lower()}")
        arguments = ["--config", str(config), *(f"--set={key}" for key in sets)]
        program = running.ROOT / "jobs" / "join_samples.py"
        submitted = flink_cluster.run(
            program, arguments, parallelism=parallelism, savepoint=savepoint
        )
        return Job(flink_cluster, submitted.job_id)

    events = hours(zlib.crc32(name.encode()))
    truth = expected(events, later())

    # the running stream: hours 0 and 1 become complete, hour 2 has rows and does not
    job = start(before, compact_before)
    topics.produce(events)
    want = {hour(0): True, hour(1): True, hour(2): False}
    wait_until(
        lambda: job.goes_on() and all(complete(output, table) == want for table in TABLES),
        120,
        "two of three hours to be complete in all tables",
        every_s=0.25,
    )
    # what is not read yet would be late, once its partition is called idle
    for stream, kind in (("features", Request), ("actions", Action)):
        job.wait_until_read(stream, sum(isinstance(event, kind) for event in events))
    savepoint = flink_cluster.stop_job(job.id, tmp_path / "savepoints")
    assert {table: complete(output, table) for table in TABLES} == dict.fromkeys(TABLES, want)

    # a restart on quiet topics: time stands where it stood
    sets = [f"sources.{stream}.idle_timeout=2s" for stream in idle.split()]
    job = start(after, not compact_before, *sets, savepoint=savepoint)
    topics.produce([LATE])
    wait_until(
        lambda: job.goes_on() and LATE.request_id in rejected_requests(output),
        120,
        "the late request to be rejected",
        every_s=0.25,
    )
    assert complete(output, "samples") == want
    topics.produce(later())
    want[hour(2)] = True
    wait_until(
        lambda: job.goes_on() and all(complete(output, table) == want for table in TABLES),
        120,
        "three hours to be complete in all tables",
        every_s=0.25,
    )
    wait_until(lambda: job.goes_on() and all_idle(job, idle.split(), 4 * SECOND), 60, "idleness")
    flink_cluster.stop_job(job.id, tmp_path / "drained", drain=True)

    check_written(output, RULES, truth)
    whole = {"samples": want | {hour(3): True}, "late_actions": want, "rejected": want}
    assert {table: complete(output, table) for table in TABLES} == whole
    left = [p for table in TABLES for p in (output / table).rglob("*") if p.is_file()]
    assert [p for p in left if p.suffix != ".parquet" and p.name != "_SUCCESS"] == []


def expected(events: list[Event], later: list[Event]) -> Outcome:
    """What is due when the late request comes after `events`, then `later`, and then the end."""
    known = max(e.event_time for e in events if isinstance(e, Request)) - 1
    end = max(e.event_time for e in later if isinstance(e, Request))
    timeline = Timeline((*events, Watermark(known), LATE, *later, Watermark(end - 1)), end)
    truth = oracle.expected(timeline, RULES)
    # otherwise there would be nothing to lose
    assert len([r for r in truth.rows if r.observed_ms == 0]) == 2 * PARTITIONS
    assert {r.reason for r in truth.rejected} == {"orphan_action", "unknown_action", "late_request"}
    assert len(truth.late) > 3 * PARTITIONS
    return truth


def rejected_requests(output: Path) -> set[str]:
    rows = running.rows(output, "rejected", ["stream", "raw"])
    return {json.loads(r["raw"])["request_id"] for r in rows if r["stream"] == "features"}
