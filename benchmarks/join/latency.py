"""How long after a row could be known it comes out of the join, and is visible to a reader.

A producer sends requests and clicks in real time at a steady rate. A row is **due** when Kafka has
acknowledged, on both topics, an event that moves the watermark to the time at which the rules make
the row: the end of the window, or the action that changed a label. From then it takes until it
leaves the join (**emitted**: the wall clock of a second, small sink) and until its file has its
final name (**visible**). The wait of the window itself and of `out_of_orderness` is not in these
figures: they are the configuration's.
"""

from __future__ import annotations

import bisect
import json
import re
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.join import measure
from benchmarks.join.feed import Feed
from benchmarks.join.flink_options import VISIBLE_EVERY_S
from benchmarks.join.spec import CLICK_PERCENT, DISORDER_MS, ITEMS, Spec
from benchmarks.join.topics import Topics
from services.waiting import wait_until

WINDOW_MS = 5_000
#: While the JVM compiles, nothing is measured.
WARM_UP_S, MEASURED_S = 40.0, 60.0
#: After the last measured request: its window, a checkpoint, and room.
_AFTER_S = (WINDOW_MS + DISORDER_MS) / 1_000 + 2 * VISIBLE_EVERY_S + 5
_POLL_S = 0.05
#: What a run for the latency prints when its job has been started.
_RUNS = "latency: started"
_ROW = re.compile(r"^\+I\[(r\d+), (\w+), (\d+), (\d+), (\S+?)\]", re.MULTILINE)


@dataclass(frozen=True)
class Load:
    """A policy, and the kind of row that is looked at. `versions`: how often each impression is
    written, so that half load is that much less.
    """

    policy: str
    kind: str
    versions: int


LOADS = (Load("wait", "final", 1), Load("fake_negative", "positive", 2))


@dataclass(frozen=True)
class Latency:
    """Milliseconds. `rate`: requests a second. `rows`: how many were looked at."""

    policy: str
    kind: str
    rate: int
    rows: int
    emitted_p50: float
    emitted_p99: float
    visible_p50: float
    visible_p99: float


@dataclass(frozen=True)
class _Acks:
    """Of a topic: times of events, ascending, and when the first of that time or later was in."""

    times: list[int]
    at: list[int]

    @classmethod
    def of(cls, acks: list[tuple[int, int]]) -> _Acks:
        ordered = sorted((time, at) for time, at in acks)
        at = np.minimum.accumulate([at for _, at in ordered][::-1])[::-1]
        return cls([time for time, _ in ordered], at.tolist())

    def reached(self, time: int) -> int | None:
        """When an event with this time or a later one was in Kafka."""
        i = bisect.bisect_left(self.times, time)
        return self.at[i] if i < len(self.at) else None


def measured(load: Load, rate: int, topics: Topics) -> Latency:
    """One run. Raises measure.RunError."""
    name = f"latency-{time.time_ns()}"
    for stream in ("features", "actions"):
        topics.empty(f"{name}-{stream}", partitions=1)
    spec = Spec(
        "whole", "ours", "hashmap", 0, 8, 1, WINDOW_MS, "latency", source="kafka",
        brokers=topics.servers, topics=name, policy=load.policy,
    )  # fmt: skip
    with measure.scratch(spec) as placed, measure.running(placed) as (child, log):
        folder = Path(placed.scratch)
        wait_until(
            lambda: child.poll() is not None or _RUNS in log.read_text(), 120, "the job to run"
        )
        feed = Feed(
            topics.servers,
            name,
            rate,
            WARM_UP_S + MEASURED_S + _AFTER_S,
            ITEMS,
            spec.features,
            CLICK_PERCENT,
            WINDOW_MS,
            str(folder / "acks.json"),
        )
        began = time.time_ns() // 1_000_000
        feeding = subprocess.Popen(
            [measure.python_of_peers(), "-m", "benchmarks.join.feed", feed.to_json()],
            cwd=measure.ROOT,
        )
        try:
            seen = _files_until_ended([feeding, child], folder / "out" / "samples")
        finally:
            feeding.kill()
            feeding.wait()
        if feeding.returncode != 0 or child.poll() is not None:
            raise measure.RunError(
                f"latency of {load.policy}: the job or its load has ended: {measure.why(log)}"
            )
        acks = json.loads((folder / "acks.json").read_text())
        both = [_Acks.of(acks[stream]) for stream in ("features", "actions")]
        first = began + round(WARM_UP_S * 1_000)
        last = first + round(MEASURED_S * 1_000)

        def due(event_time: int, observed: int) -> int | None:
            if not first <= event_time < last:
                return None
            known = [acks.reached(event_time + observed + DISORDER_MS + 1) for acks in both]
            return None if None in known else max(at for at in known if at is not None)

        emitted = [
            _millis(at) - known
            for _, kind, event_time, observed, at in _ROW.findall(log.read_text())
            if kind == load.kind and (known := due(int(event_time), int(observed))) is not None
        ]
        visible = [
            at - known
            for path, at in seen.items()
            for event_time, observed in _rows_of(path, load.kind)
            if (known := due(event_time, observed)) is not None
        ]
    if not emitted or not visible:
        raise measure.RunError(f"latency of {load.policy}: no rows of kind {load.kind}")
    return Latency(
        load.policy,
        load.kind,
        rate,
        len(emitted),
        *(float(np.percentile(of, q)) for of in (emitted, visible) for q in (50, 99)),
    )


def _files_until_ended(either: list[subprocess.Popen[bytes]], samples: Path) -> dict[Path, int]:
    """When each visible file was first seen, ms, until one of the processes has ended."""
    seen: dict[Path, int] = {}
    while all(process.poll() is None for process in either):
        for path in samples.rglob("*.parquet"):
            if not path.name.startswith((".", "_")):
                seen.setdefault(path, time.time_ns() // 1_000_000)
        time.sleep(_POLL_S)
    return seen


def _rows_of(path: Path, kind: str) -> list[tuple[int, int]]:
    """Event time and observed ms of the rows of a kind."""
    table = pq.ParquetFile(path).read(columns=["event_time", "observed_ms", "kind"])
    columns = (table[name].to_pylist() for name in ("event_time", "observed_ms", "kind"))
    return [(time, observed) for time, observed, of in zip(*columns, strict=True) if of == kind]


def _millis(timestamp: str) -> int:
    """Of Flink's print, as 2026-11-26T04:05:06.789Z."""
    seconds, _, fraction = timestamp.rstrip("Z").partition(".")
    parsed = datetime.strptime(f"{seconds}+0000", "%Y-%m-%dT%H:%M:%S%z")
    return round(parsed.timestamp() * 1_000) + int(fraction.ljust(3, "0")[:3])
