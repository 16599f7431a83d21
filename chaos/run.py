"""A run: faults one after the other, each with its times and its comparison."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from chaos.cluster import Cluster
from chaos.comparison import Comparison
from chaos.faults import Before, Fault, Scene
from chaos.job import JoinJob
from chaos.load import Load
from chaos.result import Difference, Result
from jobs.pipeline.config import load as load_pipeline
from services.waiting import DeadlineError, wait_until
from tools.audit.command import audit

_K = TypeVar("_K")

_DEADLINE_S = 180
#: A drain ends an era: the job must not go on after it.
DRAIN = "stop with drain"


class Era:
    """From the first record of an output to the drain that ends it."""

    def __init__(self, cluster: Cluster, number: int, *, seed: int, rate: float) -> None:
        """Topics, load and job of era `number`; `seed` decides which backend and parallelism."""
        self._cluster = cluster
        rng = random.Random(f"{seed}/era {number}")
        backend = rng.choice(("hashmap", "rocksdb"))
        self.job = JoinJob(cluster, f"era{number}", backend)
        self.load = Load(
            cluster.kafka.bootstrap_servers, self.job.topics, seed=seed + number, rate=rate
        )
        self.comparison = Comparison(self.job.output)
        self._parallelism = rng.choice((1, 2))

    def begin(self) -> None:
        """Load and job, until the first rows are right."""
        self.load.start()
        self.job.submit(parallelism=self._parallelism)
        self.catch_up(self.run_again(_now()))

    def run_again(self, since: int) -> int:
        """Wait for a checkpoint that was begun after `since` (ms); return when it was seen."""

        def runs() -> bool:
            self.load.check()
            status = self._cluster.status()
            return status is not None and status.runs and status.checkpoint_begun > since

        wait_until(runs, _DEADLINE_S, "the job to run and to make a checkpoint", every_s=0.2)
        return _now()

    def catch_up(self, decided_by: int) -> Difference:
        """Wait until nothing is missing of what is decided by that time; what differs then."""
        found: list[Difference] = []

        def caught_up() -> bool:
            self.load.check()
            found.append(self.comparison.compare(self.load.stories(), decided_by))
            return not found[-1].missing

        with contextlib.suppress(DeadlineError):
            wait_until(caught_up, _DEADLINE_S, "the missing rows", every_s=0.5)
        return found[-1]

    def suffer(self, number: int, fault: Fault, rng: random.Random) -> Result:
        """Make one fault, wait until the job has caught up, and compare."""
        scene = Scene(self._cluster, self.job, rng)
        status = wait_until(self._cluster.status, _DEADLINE_S, "the job manager to answer")
        before = Before(_now(), self._cluster.flink.leader(), status)
        start = time.monotonic()
        what = fault.make(scene)
        detected = None
        if fault.shows:
            noticed: Callable[[], bool] = lambda: fault.has_shown(scene, before)  # noqa: E731
            wait_until(noticed, _DEADLINE_S, f"a sign of: {fault.name}", every_s=0.1)
            detected = time.monotonic() - start
        fault.undo(scene)
        mark = self.run_again(_now())
        running = time.monotonic() - start
        difference = self.catch_up(mark)
        caught_up = time.monotonic() - start
        return Result(number, fault.name, what, detected, running, caught_up, difference)

    def drain(self, number: int) -> Result:
        """Finish the load, drain the job, compare all of the output and audit it."""
        self.load.finish()
        self.run_again(_now())
        start = time.monotonic()
        difference = self.catch_up(_now() - 1)
        self.job.stop(drain=True)
        running = time.monotonic() - start
        stories = self.load.stories()
        # what is decided only by the last watermark must be there too
        missed = self.comparison.compare(stories, max(s.decided_at for s in stories))
        everything = self.comparison.compare_everything(stories)
        difference = max((difference, missed, everything), key=lambda one: one.count)
        report = audit(load_pipeline(self.job.config, ()))
        unaccounted = len(report.findings) + sum(abs(a.difference) for a in report.accounts)
        end = time.monotonic() - start
        what = f"{len(stories)} requests, {self.load.records} records"
        return Result(number, DRAIN, what, None, running, end, difference, unaccounted)


def run(
    cluster: Cluster,
    faults: Sequence[type[Fault]],
    *,
    seed: int,
    rate: float,
    faults_an_era: int,
    ends_at: float,
    told: Callable[[str], None],
) -> Iterator[Result]:
    """Make the faults in this order on a cluster that runs; after so many, a drain and a new era.

    The seed decides what each of them hits, so a seed and an order give the same faults again.
    No other fault is begun after `ends_at`, seconds of `time.monotonic`.
    """
    rng = random.Random(seed)
    number = 0
    for first in range(0, len(faults), faults_an_era):
        if time.monotonic() > ends_at:
            return
        told(f"era {first // faults_an_era + 1}: a new output")
        era = Era(cluster, first // faults_an_era, seed=seed, rate=rate)
        era.begin()
        for fault in faults[first : first + faults_an_era]:
            if time.monotonic() > ends_at:
                break
            number += 1
            told(f"{number}: {fault.name}")
            yield era.suffer(number, fault(), rng)
        number += 1
        told(f"{number}: {DRAIN}")
        yield era.drain(number)


def draw(kinds: Sequence[_K], number: int, seed: int) -> list[_K]:
    """So many faults: all kinds once in some order, then again in another."""
    rng = random.Random(f"{seed}/faults")
    drawn: list[_K] = []
    while len(drawn) < number:
        drawn += rng.sample(list(kinds), len(kinds))
    return drawn[:number]


def _now() -> int:
    return round(time.time() * 1000)
