"""The join with more state than memory: RocksDB, its managed memory a fraction of the state.

The join alone (3.5 KB a request) takes in requests, half of which are pending at any time once the
window has filled. Seen from outside, over Flink's REST API: how the rate changes while the state
grows and after that, what a checkpoint weighs and takes, and how long a process that was killed
takes to be there again.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.join import measure
from benchmarks.join.flink_options import ROCKSDB_KEYS
from benchmarks.join.spec import ITEMS, PAYLOAD_BYTES, Spec
from jobs.pipeline import places
from services import process
from services.waiting import wait_until

MANAGED_MB = 64
#: Pending requests. With 3.5 KB each, 8 and 16 times the managed memory.
SIZES = (150_000, 300_000)
_WINDOW_MS = 3_600_000
#: Of the source: requests that come for each that is pending.
_TURNS = 2
_START_DEADLINE_S, _DEADLINE_S = 120.0, 1_800.0
#: Of the rate over time, and between two looks at the job; the disk is looked at every tenth time.
_POINTS, _EVERY_S, _DISK_EVERY = 40, 0.25, 10

#: What Flink does by itself, a part of what the job sets (jobs/pipeline/environment.py), and all.
DEFAULTS, OURS = "Flink's defaults", "this project's"
OPTIONS: Mapping[str, Mapping[str, str]] = {
    options: {key: str(key in switched_on).lower() for key in ROCKSDB_KEYS}
    for options, switched_on in (
        (DEFAULTS, ()),
        ("incremental", ROCKSDB_KEYS[:1]),
        ("incremental, Bloom filters", ROCKSDB_KEYS[:2]),
        (OURS, ROCKSDB_KEYS),
    )
}


@dataclass(frozen=True)
class LargeState:
    """One run. Requests a second in three parts of the run: while the state grew, in the first and
    in the second half of what came then. `full_bytes`: of the last checkpoint; `written_bytes` and
    `checkpoint_s`: of the checkpoints while the state was full, at the median. `restore_s`: from
    the start of the process until all tasks run, and `start_s`: the same without state.
    `disk_bytes`: the most that RocksDB's files took. `rates`: requests taken in, and requests a
    second since the point before, for each `_POINTS`th of the run.
    """

    options: str
    pending: int
    growing: float
    first_half: float
    second_half: float
    full_bytes: int
    written_bytes: float
    checkpoint_s: float
    start_s: float
    restore_s: float
    peak_bytes: int
    disk_bytes: int
    rates: list[tuple[int, float]]


def predicted_bytes(pending: int) -> float:
    """The state at the end of a run, by the formula of docs/operations.md, "Sizing".

    Each request has one action, whose record is empty.
    """
    item_id = sum(len(f"i{position}") for position in range(ITEMS)) / ITEMS
    packed = 80 + 3 + ITEMS * (item_id + 1 + PAYLOAD_BYTES + 2)
    action = 4 * item_id + 60
    tombstone = 80 + ITEMS * (item_id + 1) + 9
    return pending * (packed + action) + (_TURNS - 1) * pending * tombstone


def measured(options: str, pending: int) -> LargeState:
    """One run. Raises measure.RunError."""
    requests = _TURNS * pending
    flink = {
        "taskmanager.memory.managed.size": f"{MANAGED_MB}mb",
        # the rate is read from them
        "metrics.fetcher.update-interval": "500",
        **OPTIONS[options],
    }
    spec = Spec(
        "alone", "ours", "rocksdb", requests, 1, _WINDOW_MS // pending, _WINDOW_MS, "large",
        port=process.free_port(), flink=flink,
    )  # fmt: skip
    with measure.scratch(spec) as spec:
        with measure.running(spec) as (child, log):
            job = _Job(spec.port, child, log)
            start_s = job.wait_until_running()
            seen = _watch(job, requests, Path(spec.scratch) / "rocksdb")
            samples = [seen.first(requests * part) for part in (0.0, 0.5, 0.75, 1.0)]
            job.wait_for_checkpoint()
            checkpoint = job.checkpoints()["latest"]["completed"]
            full = [
                one
                for one in job.checkpoints()["history"]
                if one["status"] == "COMPLETED" and one["trigger_timestamp"] >= samples[1].at * 1e3
            ]
            peak = job.peak
            os.kill(child.pid, signal.SIGKILL)
        again = replace(
            spec, port=process.free_port(), restore=places.from_uri(checkpoint["external_path"])
        )
        with measure.running(again) as (child, log):
            restore_s = _Job(again.port, child, log).wait_until_running()
    at, half, end = (samples[i] for i in (1, 2, 3))
    return LargeState(
        options,
        pending,
        samples[1].requests / (samples[1].at - samples[0].at),
        (half.requests - at.requests) / (half.at - at.at),
        (end.requests - half.requests) / (end.at - half.at),
        checkpoint["state_size"],
        median(one["checkpointed_size"] for one in full),
        median(one["end_to_end_duration"] for one in full) / 1e3,
        start_s,
        restore_s,
        peak,
        seen.disk_bytes,
        seen.rates(requests),
    )


@dataclass(frozen=True)
class _Sample:
    at: float
    requests: int


@dataclass
class _Seen:
    """What the join had taken in, over time, and the most that its files took."""

    samples: list[_Sample]
    disk_bytes: int = 0

    def first(self, requests: float) -> _Sample:
        """The first sample with at least so many requests, and at least one."""
        return next(one for one in self.samples if one.requests >= max(requests, 1))

    def rates(self, requests: int) -> list[tuple[int, float]]:
        """Requests taken in, and requests a second since the point before."""
        points = [self.first(requests * n / _POINTS) for n in range(_POINTS + 1)]
        return [
            (now.requests, round((now.requests - before.requests) / (now.at - before.at)))
            for before, now in itertools.pairwise(points)
            if now.at > before.at
        ]


class _Job:
    """A local job as Flink's REST API shows it."""

    def __init__(self, port: int, child: subprocess.Popen[bytes], log: Path) -> None:
        self._root, self._child, self._log = f"http://127.0.0.1:{port}", child, log
        self._began = time.monotonic()
        self._id = ""
        self._metric: tuple[str, str] | None = None
        self.peak = 0

    def wait_until_running(self) -> float:
        """Seconds since the process was started."""

        def all_run() -> bool:
            try:
                jobs = self._get("/jobs/overview")["jobs"]
                self._id = jobs[0]["jid"] if jobs else ""
                vertices = self._get(f"/jobs/{self._id}")["vertices"] if jobs else []
            except OSError:
                return False
            return bool(vertices) and all(vertex["status"] == "RUNNING" for vertex in vertices)

        self._wait(all_run, _START_DEADLINE_S, "the job to run")
        return time.monotonic() - self._began

    def accepted(self) -> int:
        """Requests that the join has taken in."""
        if self._metric is None:
            for vertex in self._get(f"/jobs/{self._id}")["vertices"]:
                root = f"/jobs/{self._id}/vertices/{vertex['id']}/metrics"
                for metric in self._get(root):
                    if metric["id"].endswith(".accepted"):
                        self._metric = (root, metric["id"])
        if self._metric is None:
            return 0
        found = self._get(f"{self._metric[0]}?get={self._metric[1]}")
        self.peak = max(self.peak, measure.resident_bytes(self._child.pid))
        return int(found[0]["value"]) if found else 0

    def checkpoints(self) -> Any:
        """All about its checkpoints."""
        return self._get(f"/jobs/{self._id}/checkpoints")

    def wait_for_checkpoint(self) -> None:
        """Until two have completed that had not when this was called: one began after that."""
        end = self.checkpoints()["counts"]["completed"] + 2
        self._wait(lambda: self.checkpoints()["counts"]["completed"] >= end, 300.0, "a checkpoint")

    def _wait(self, condition: Callable[[], bool], deadline_s: float, what: str) -> None:
        def ended_or() -> bool:
            if self._child.poll() is not None:
                raise measure.RunError(f"the job has ended: {measure.why(self._log)}")
            return condition()

        wait_until(ended_or, deadline_s, what, every_s=0.25)

    def _get(self, path: str) -> Any:
        return measure.get(self._root + path)


def _watch(job: _Job, requests: int, disk: Path) -> _Seen:
    """Until all of the requests were in. Raises measure.RunError."""
    seen = _Seen([])
    deadline = time.monotonic() + _DEADLINE_S
    while not seen.samples or seen.samples[-1].requests < requests:
        accepted = job.accepted()
        seen.samples.append(_Sample(time.time(), accepted))
        if len(seen.samples) % _DISK_EVERY == 0:
            seen.disk_bytes = max(seen.disk_bytes, _bytes_below(disk))
        if time.monotonic() > deadline:
            raise measure.RunError(f"{accepted:,} of {requests:,} after {_DEADLINE_S:.0f} s")
        time.sleep(_EVERY_S)
    return seen


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        # a compaction deletes files while this looks
        with suppress(FileNotFoundError):
            found = path.stat()
            total += found.st_blocks * 512
    return total
