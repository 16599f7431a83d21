"""The numbers by which a run is watched, as metrics for Prometheus.

Names and units are stable: docs/trainer.md lists them, dashboards and alerts use them. What must
grow while the trainer hangs (lag, ages) is computed when it is scraped, and not when something
happens in the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from trainer.evaluation.tally import Tally
from trainer.run.job import Outcome

PREFIX = "sample_stitch_trainer"
#: The parts of `Outcome.seconds`.
PHASES = ("read", "pull", "compute", "push")
#: Seconds. A batch takes milliseconds in one process, and waits for a server that failed.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
#: Seconds of writing a checkpoint or an export.
_WRITING = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Instruments:
    """The metrics of one process that runs a session.

    `actions`: those that are predicted. `clock`: epoch seconds. Methods are called by the thread of
    the run; the registry may be read by another one.
    """

    def __init__(
        self, actions: tuple[str, ...] = (), clock: Callable[[], float] = time.time
    ) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._clock = clock
        self._actions = actions
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._samples = self._counter("samples", "Samples that were learned by this process")
        self._batches = self._counter("batches", "Batches that were learned by this process")
        self._keys_used = self._counter("batch_keys", "Distinct keys of each batch, summed")
        self._seconds = self._histogram(
            "batch_seconds", "Seconds of a worker for a part of a batch", _SECONDS, "phase"
        )
        for phase in PHASES:
            self._seconds.labels(phase)
        self._pending = self._gauge(
            "pending_samples", "Samples that are committed, not yet learned"
        )
        self._newest = self._gauge(
            "newest_sample_timestamp_seconds", "Event time of the newest learned sample, epoch"
        )
        self._pending_since: float | None = None
        self._at_scrape(
            "lag_seconds",
            "Age of the oldest file that is not learned to its end; 0: all is learned",
            lambda now: 0.0 if self._pending_since is None else now - self._pending_since,
        )
        self._turned = clock()
        self._at_scrape(
            "idle_seconds",
            "Seconds since the run last finished a batch or looked for files",
            lambda now: now - self._turned,
        )
        self.unsaved, self.unserved = Unsaved(), Unsaved()
        self._at_scrape(
            "checkpoint_age_seconds",
            "Age of the oldest learned batch that is in no checkpoint; 0: all is saved",
            self.unsaved.age,
        )
        self._at_scrape(
            "export_age_seconds",
            "Age of the oldest learned batch that is in no export; 0: all is exported",
            self.unserved.age,
        )
        self._written = {
            name: self._histogram(
                f"{name}_seconds", f"Seconds from the cut to the {name}", _WRITING
            )
            for name in ("checkpoint", "export")
        }
        self._failed_writes = self._counter(
            "failed_writes", "Checkpoints and exports that were given up", "what"
        )
        for name in self._written:
            self._failed_writes.labels(name)
        self._keys = self._gauge("keys", "Keys that have parameters")
        self._bytes = self._gauge("parameter_bytes", "Memory of all tables, without backups")
        self._refused = self._counter("refused_samples", "Samples without a finite gradient")
        self._expired = self._counter("expired_keys", "Keys that lost their parameters by age")
        self._failovers = self._counter(
            "failovers", "Processes that ended and were replaced", "role"
        )
        for role in ("server", "worker"):
            self._failovers.labels(role)
        self._rollbacks = self._counter("rollbacks", "Returns of the run to its last checkpoint")
        self._recovery = self._histogram(
            "recovery_seconds", "Seconds from the end of a server to the next batch", _WRITING
        )
        self._processes = self._gauge("processes", "Processes that are up", "role")
        for role in ("server", "worker"):
            self._processes.labels(role)
        self._bare = self._gauge(
            "shards_without_backup", "Shards that should have a backup, and lack it"
        )
        self._staleness = self._gauge(
            "staleness_batches", "Batches by which the fastest worker is ahead of the slowest"
        )
        self._weight = self._counter(
            "evaluated_samples", "Samples predicted before they were learned, weighted", "action"
        )
        self._loss = self._counter("log_loss_nats", "Sum of their log loss, weighted", "action")
        self._predicted = self._counter(
            "predictions", "Sum of their predictions, weighted", "action"
        )
        self._positives = self._counter("positives", "Sum of their labels, weighted", "action")
        for each in (self._weight, self._loss, self._predicted, self._positives):
            for action in actions:
                each.labels(action)

    # -- what happens in a run ---------------------------------------------------------------------

    def learned(self, outcome: Outcome) -> None:
        """A worker has finished a batch."""
        self._samples.inc(outcome.rows)
        self._batches.inc()
        self._keys_used.inc(outcome.keys)
        for phase, seconds in zip(PHASES, outcome.seconds, strict=True):
            self._seconds.labels(phase).observe(seconds)
        now = self._clock()
        self.unsaved.learned(now)
        self.unserved.learned(now)

    def turned(self, pending: int, newest: int, since: float | None) -> None:
        """The run goes on, or waits for files.

        `pending`: samples to learn. `newest`: event time, epoch ms, or 0. `since`: when the oldest
        file with such samples was written, epoch seconds.
        """
        self._turned = self._clock()
        self._pending.set(pending)
        if newest:
            self._newest.set(newest / 1e3)
        self._pending_since = since

    def evaluated(self, tally: Tally) -> None:
        """These metrics are new."""
        for action, sums in zip(self._actions, tally.sums(), strict=True):
            self._weight.labels(action).inc(sums.weight)
            self._loss.labels(action).inc(sums.loss)
            self._predicted.labels(action).inc(sums.predicted)
            self._positives.labels(action).inc(sums.positive)
        self._refused.inc(tally.limited.refused)

    def sized(self, keys: int, size: int) -> None:
        """All tables have so many keys and bytes."""
        self._keys.set(keys)
        self._bytes.set(size)

    def expired(self, keys: int) -> None:
        """So many keys lost their parameters."""
        self._expired.inc(keys)

    def wrote(self, what: str, seconds: float) -> None:
        """A checkpoint or an export (`what`) is complete."""
        self._written[what].observe(seconds)

    def gave_up(self, what: str) -> None:
        """A checkpoint or an export (`what`) was given up."""
        self._failed_writes.labels(what).inc()

    def rolled_back(self) -> None:
        """The run went back to its last checkpoint, so what came after it is not learned."""
        self._rollbacks.inc()
        self.unsaved.forget()
        self.unserved.forget()

    def failed_over(self, role: str) -> None:
        """A server or a worker (`role`) has ended, and is replaced."""
        self._failovers.labels(role).inc()

    def recovered(self, seconds: float) -> None:
        """The first batch after the end of a server is finished."""
        self._recovery.observe(seconds)

    def cluster(self, servers: int, workers: int, bare: int, staleness: int) -> None:
        """What is up now. `bare`: shards that lack their backup. `staleness`: in batches."""
        self._processes.labels("server").set(servers)
        self._processes.labels("worker").set(workers)
        self._bare.set(bare)
        self._staleness.set(staleness)

    # -- what they are now -------------------------------------------------------------------------

    def value(self, name: str, **labels: str) -> float:
        """The present value of a metric, without the prefix. Raises KeyError."""
        found = self.registry.get_sample_value(f"{PREFIX}_{name}", labels)
        if found is None:
            raise KeyError(name)
        return found

    # -- making them -------------------------------------------------------------------------------

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, labels, registry=self.registry, buckets=buckets)

    def _at_scrape(self, name: str, text: str, value: Callable[[float], float]) -> None:
        self._gauge(name, text).set_function(lambda: max(0.0, value(self._clock())))


@dataclass
class Unsaved:
    """Since when something is learned that is not saved. Times: epoch seconds."""

    _oldest: float | None = None
    #: The first batch after the cut of what is being written.
    _after_cut: float | None = None

    def learned(self, now: float) -> None:
        """A batch was learned."""
        if self._oldest is None:
            self._oldest = now
        if self._after_cut is None:
            self._after_cut = now

    def begun(self) -> None:
        """All that was learned so far is being written."""
        self._after_cut = None

    def completed(self) -> None:
        """What was being written is complete."""
        self._oldest = self._after_cut

    def forget(self) -> None:
        """Nothing that is not saved is learned any more."""
        self._oldest = self._after_cut = None

    def age(self, now: float) -> float:
        """Seconds since the oldest batch that is not saved was learned, or 0."""
        oldest = self._oldest
        return 0.0 if oldest is None else now - oldest


@contextmanager
def endpoint(instruments: Instruments, address: str, port: int) -> Iterator[int]:
    """Serves the metrics over HTTP at `/metrics` meanwhile; gives the port (0: any free one).

    Raises OSError if it cannot listen there.
    """
    server, thread = start_http_server(port, address, instruments.registry)
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
