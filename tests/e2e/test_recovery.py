"""What the job holds survives a killed task manager, a lost job manager and a move to another job.

Real processes: a broker, a session cluster, the job submitted to it, unbounded. The data are within
the bounds, for watermarks start from nothing after a restore, and only within the bounds must the
outcome not depend on that. They are cut in the middle of everything: at the cut there are rows that
are written, requests that wait with and without actions, tombstones with late actions and copies
still to come, and actions that no request will ever claim.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.flink_cluster import ClusterError, FlinkCluster
from services.kafka_broker import KafkaBroker
from services.waiting import DeadlineError, wait_until
from tests import oracle
from tests.e2e.cluster_job import Job
from tests.e2e.outcomes import check_written, send
from tests.flink import running
from tests.timeline import (
    END,
    Action,
    Key,
    Outcome,
    Request,
    Rules,
    Timeline,
    Watermark,
)

SECOND = 1_000
START = 1_700_000_000_000
REQUESTS, PARTITIONS = 240, 3
CUT = START + 150 * SECOND
#: Past every deadline: no event but those that close the time.
CLOSE = START + 3_600 * SECOND
DISORDER = 2 * SECOND
CLICK, BUY, SKEW = 10 * SECOND, 60 * SECOND, 1 * SECOND
HORIZON = 2 * BUY
#: Copies come this much later, beyond the bounds: what they repeat is remembered longer than that.
COPY_AFTER = 40 * SECOND

CONFIG = """
[join]
key = "{key}"
clock_skew = "1s"
[actions.click]
window = "10s"
label = "count"
[actions.buy]
window = "60s"
label = "sum"
[features.price]
type = "float64"
[sources.features]
type = "kafka"
topic = "{name}-features"
bootstrap_servers = "{servers}"
out_of_orderness = "2s"
[sources.actions]
type = "kafka"
topic = "{name}-actions"
bootstrap_servers = "{servers}"
out_of_orderness = "2s"
[output]
path = "{folder}/out"
compact = {compact}
[runtime]
state_backend = "{backend}"
checkpoint_interval = "1s"
checkpoint_path = "{folder}/checkpoints"
[flink]
"restart-strategy.type" = "fixed-delay"
"restart-strategy.fixed-delay.attempts" = "30"
"restart-strategy.fixed-delay.delay" = "1s"
"""

# -- the data --------------------------------------------------------------------------------------


def traffic(key: Key) -> list[tuple[int, Request | Action]]:
    """A request a second, with actions at the edges of everything, in the order of arrival."""
    rng = random.Random(key)
    events: list[Request | Action] = []
    after = (-SKEW, 0, 400, CLICK, CLICK + 1, 45 * SECOND, BUY, BUY + 1, HORIZON, HORIZON + 1)
    for i in range(REQUESTS):
        items = tuple(f"i{rng.randrange(12)}" for _ in range(4))
        request = Request(f"r{i}", f"u{i % 7}", START + i * SECOND, items)
        events.append(request)
        for item in (*dict.fromkeys(items), "unseen"):
            if rng.random() < (0.1 if item == "unseen" else 0.5):
                kind = rng.choice(("click", "click", "buy", "buy", "buy", "teleport"))
                events.append(
                    Action(
                        event_id=f"e{len(events)}" if rng.random() < 0.9 else None,
                        user_id=request.user_id,
                        item_id=item,
                        request_id=request.request_id if key == "request_id" else None,
                        action=kind,
                        value=rng.random() if kind == "buy" else None,
                        event_time=request.event_time + rng.choice(after),
                    )
                )
    arrivals = [(e.event_time + rng.randrange(DISORDER), e) for e in events]
    copied = [(at, e) for at, e in arrivals if rng.random() < 0.1]
    arrivals += [(at + rng.randrange(COPY_AFTER), event) for at, event in copied]
    return sorted(arrivals, key=lambda arrival: arrival[0])


@dataclass(frozen=True)
class Scenario:
    """A configured job with its topics, what goes into them before and after, and what is due."""

    rules: Rules
    servers: str
    name: str
    folder: Path
    before: list[Request | Action]
    after: list[Request | Action]
    expected: Outcome
    #: how many of the rows are due before the cut
    due_before: int

    @property
    def config(self) -> Path:
        return self.folder / "pipeline.toml"

    def produce(self, events: Sequence[Request | Action]) -> None:
        """Send events in their order; those of one key to one partition."""
        self._send([(partition(e, self.rules), e) for e in events])

    def close_time(self) -> None:
        """Let the watermark pass everything: that takes a later event in every partition."""
        far: list[tuple[int, Request | Action]] = []
        for p in range(PARTITIONS):
            far.append((p, Request(f"far{p}", f"far{p}", CLOSE, ("i",))))
            far.append((p, Action(None, f"far{p}", "i", f"far{p}", "click", None, CLOSE)))
        self._send(far)

    def _send(self, events: Iterable[tuple[int, Request | Action]]) -> None:
        send(self.servers, self.name, events)


def scenario(
    name: str, key: Key, backend: str, broker: KafkaBroker, folder: Path, *, compact: bool
) -> Scenario:
    """Topics, configuration and truth, ready to run."""
    rules = Rules(key, {"click": CLICK, "buy": BUY}, {"click": "count", "buy": "sum"}, skew=SKEW)
    arrivals = traffic(key)
    before = [event for at, event in arrivals if at < CUT]
    after = [event for at, event in arrivals if at >= CUT]
    reached = watermark(before, rules)
    expected = oracle.expected(Timeline((*before, Watermark(reached), *after), CLOSE), rules)

    # otherwise there would be nothing to lose, or to double
    due = [row for row in expected.rows if row.made_at != END]
    known = {e.request_id for e in before if isinstance(e, Request)}
    assert len(due) >= 200
    assert len(known - {row.request_id for row in due}) >= 50
    assert {late.sample[0] for late in expected.late} & {row.request_id for row in due}
    assert {(r.stream, r.reason) for r in expected.rejected} == {
        ("actions", "duplicate_action"),
        ("actions", "orphan_action"),
        ("actions", "unknown_action"),
        ("features", "duplicate_request"),
    }

    for stream in ("features", "actions"):
        broker.create_topic(f"{name}-{stream}", partitions=PARTITIONS)
    servers = broker.bootstrap_servers
    made = Scenario(rules, servers, name, folder, before, after, expected, len(due))
    made.config.write_text(
        CONFIG.format(
            key=key,
            name=name,
            servers=servers,
            folder=folder,
            backend=backend,
            compact=str(compact).lower(),
        )
    )
    return made


def partition(event: Request | Action, rules: Rules) -> int:
    key = event.request_id if rules.key == "request_id" else event.user_id
    return int(str(key)[1:]) % PARTITIONS


def watermark(events: Sequence[Request | Action], rules: Rules) -> int:
    """What the sources announce when they have read this: the least of the partitions counts."""
    reached: dict[tuple[type, int], int] = {}
    for event in events:
        where = (type(event), partition(event, rules))
        reached[where] = max(event.event_time, reached.get(where, 0))
    assert len(reached) == 2 * PARTITIONS
    return min(reached.values()) - DISORDER - 1


# -- what was written ------------------------------------------------------------------------------


def wait_for_first_rows(job: Job, scenario: Scenario) -> None:
    """Until all rows that are due before the cut are visible.

    Rows are visible from the checkpoint on that has their events behind it. That one has in its
    state all requests that were still waiting when the last of these rows was due.
    """
    wait_until(
        lambda: job.goes_on() and visible(scenario)[0] >= scenario.due_before,
        120,
        f"{scenario.due_before} rows before the cut",
        every_s=0.25,
    )
    assert visible(scenario)[0] == scenario.due_before


def check_everything(job: Job, scenario: Scenario) -> None:
    """Every row is there, and none twice, also when whatever else there was has been written."""
    due = scenario.expected
    numbers = (len(due.rows), len(due.late), len(due.rejected))
    # when some do not come, the comparison says which
    with suppress(DeadlineError):
        wait_until(
            lambda: (
                job.goes_on()
                and all(n >= m for n, m in zip(visible(scenario), numbers, strict=True))
            ),
            90,
            "all rows",
            every_s=0.25,
        )
    job.wait_for_checkpoints(2)
    check_written(scenario.folder / "out", scenario.rules, due)


def visible(scenario: Scenario) -> tuple[int, ...]:
    """How many rows each of the tables has."""
    tables = ("samples", "late_actions", "rejected")
    return tuple(len(running.rows(scenario.folder / "out", table, [])) for table in tables)


# -- the job ---------------------------------------------------------------------------------------


@contextmanager
def submitted(
    cluster: FlinkCluster,
    scenario: Scenario,
    *arguments: str,
    parallelism: int,
    savepoint: str | None = None,
) -> Iterator[Job]:
    """The joining job, cancelled in the end if it has not ended and its cluster still runs."""
    submission = cluster.run(
        running.ROOT / "jobs" / "join_samples.py",
        ["--config", str(scenario.config), *arguments],
        parallelism=parallelism,
        savepoint=savepoint,
    )
    try:
        yield Job(cluster, submission.job_id)
    finally:
        if cluster.is_running() and cluster.job_state(submission.job_id) not in (
            "FINISHED",
            "FAILED",
        ):
            cluster.cancel(submission.job_id)


# -- the tests -------------------------------------------------------------------------------------


def test_a_killed_task_manager_loses_and_doubles_nothing(
    kafka_broker: KafkaBroker, flink_cluster: FlinkCluster, tmp_path: Path
) -> None:
    story = scenario("killed", "request_id", "rocksdb", kafka_broker, tmp_path, compact=True)
    story.produce(story.before)
    with submitted(flink_cluster, story, parallelism=2) as job:
        wait_for_first_rows(job, story)
        completed = job.latest("completed")

        # read before the last checkpoint, after it, or not at all: it must not matter
        some = len(story.after) // 3
        story.produce(story.after[:some])
        victim = job.task_managers("join")[0]
        flink_cluster.kill_task_manager(victim)
        story.produce(story.after[some:])
        story.close_time()
        flink_cluster.add_task_manager()

        restored = wait_until(lambda: job.latest("restored"), 90, "a restart")
        assert restored["id"] >= completed["id"]
        check_everything(job, story)
        assert victim not in job.task_managers("join")


def waits(job: Job) -> tuple[int, int]:
    """How many requests are pending, and how many actions are held."""
    return job.metric("join", "pending_requests"), job.metric("join", "held_actions")


def wait_until_nothing_moves(job: Job) -> tuple[int, int]:
    """Until all that is in the topics is read, and what is due is done; returns what waits then."""
    seen = [waits(job)]

    def stands() -> bool:
        job.wait_for_checkpoints(3)
        seen.append(waits(job))
        return seen[-1] == seen[-2]

    wait_until(stands, 90, f"the same requests and actions to wait, of {seen}")
    return seen[-1]


@pytest.mark.thorough
def test_a_lost_job_manager_and_then_a_move_to_another_job(
    kafka_broker: KafkaBroker, flink_cluster: FlinkCluster, tmp_path: Path
) -> None:
    """The runbooks of docs/operations.md: "The job manager is lost", and "Upgrade"."""
    # with compaction: its state goes into more subtasks too
    story = scenario("moved", "user_id", "hashmap", kafka_broker, tmp_path, compact=True)
    story.produce(story.before)
    with submitted(flink_cluster, story, parallelism=1) as job:
        wait_for_first_rows(job, story)
        lost = job.latest("completed")
        flink_cluster.kill_job_manager()

    # what `make cluster-up` does when it finds no job manager
    flink_cluster.stop()
    flink_cluster.start()
    with pytest.raises(ClusterError, match="has rows already"):
        flink_cluster.run(
            running.ROOT / "jobs" / "join_samples.py", ["--config", str(story.config)]
        )
    some = len(story.after) // 3
    story.produce(story.after[:some])
    with submitted(flink_cluster, story, "--restore", "latest", parallelism=1) as job:
        restored = wait_until(lambda: job.latest("restored"), 120, "a restore")
        assert restored["id"] >= lost["id"]
        waiting = wait_until_nothing_moves(job)
        assert min(waiting) > 0
        savepoint = flink_cluster.stop_job(job.id, tmp_path / "savepoints")

    with submitted(flink_cluster, story, parallelism=2, savepoint=savepoint) as job:
        wait_until(lambda: waits(job) == waiting, 60, f"{waiting} in state, as before the move")
        story.produce(story.after[some:])
        story.close_time()
        check_everything(job, story)
        assert job.latest("restored")["external_path"] == savepoint
