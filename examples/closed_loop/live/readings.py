"""What is looked at while the loop runs, once a second."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from examples.closed_loop.live.drive import Drive
from examples.closed_loop.live.journal import Journal, Rate, rate
from examples.closed_loop.live.system import System
from schemas import generations

_HOUR_MS = 3_600_000
_TRAINER = "sample_stitch_trainer"


@dataclass(frozen=True)
class Reading:
    """The loop at one moment. Times: epoch ms of the world, ages in ms of it. None: not known.

    `learning`, `frozen`: clicks in the last `span_ms`. `model_age`: of what the learning arm was
    last ranked with. `completeness`: of the clicks that users have made on samples' items, the
    share that the samples have. `auc`, `calibration`: of the trainer's predictions before it
    learned, over the last whole hour of samples.
    """

    wall_s: float
    now: int
    requests: int
    requests_per_s: float
    pending: int | None
    learning: Rate
    frozen: Rate
    model_age: int | None
    samples: int
    learned: int
    completeness: float | None
    calibration: float | None
    auc: float | None


class Readings:
    """Takes one after the other, and keeps them."""

    def __init__(self, system: System, drive: Drive, journal: Journal, seen_kind: str) -> None:
        """`seen_kind`: the action that says that an item was on screen."""
        self._system, self._drive, self._journal = system, drive, journal
        self._seen_kind = seen_kind
        self._begun = time.monotonic()
        self._scores = Scores(system.model)
        self._labels = Labels(system.output)
        self.span_ms = 12 * _HOUR_MS
        self.taken: list[Reading] = []

    @property
    def scores(self) -> Scores:
        """The trainer's metrics by window."""
        return self._scores

    def take(self) -> Reading:
        """The present one."""
        now = self._drive.now
        shown = self._journal.between(now - self.span_ms, now + 1)
        arms = {
            arm: rate((one for one in shown if one.arm == arm), self._seen_kind)
            for arm in self._system.rankers
        }
        ranked = [one for one in shown if one.arm == "learning" and one.model_time is not None]
        age = None
        if ranked:
            assert ranked[-1].model_time is not None
            age = ranked[-1].time - ranked[-1].model_time
        wall = time.monotonic() - self._begun
        requests = len(self._journal.shown)
        trainer = self._system.trainer.metrics()
        predicted = trainer.get(f'{_TRAINER}_predictions_total{{action="click"}}', 0.0)
        positives = trainer.get(f'{_TRAINER}_positives_total{{action="click"}}', 0.0)
        learned = int(trainer.get(f"{_TRAINER}_samples_total", 0))
        before = self.taken[-1] if self.taken else None
        rate_now = 0.0
        if before is not None and wall > before.wall_s:
            rate_now = (requests - before.requests) / (wall - before.wall_s)
        reading = Reading(
            wall_s=wall,
            now=now,
            requests=requests,
            requests_per_s=rate_now,
            pending=self._system.pending_requests(),
            learning=arms["learning"],
            frozen=arms["frozen"],
            model_age=age,
            samples=learned + int(trainer.get(f"{_TRAINER}_pending_samples", 0)),
            learned=learned,
            completeness=self._labels.completeness(self._journal),
            calibration=predicted / positives if positives else None,
            auc=self._scores.latest(),
        )
        self.taken.append(reading)
        return reading


class Labels:
    """The clicks in the samples so far. Reads each file once."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._read: set[Path] = set()
        self._requests: set[str] = set()
        self._clicks = 0

    def completeness(self, journal: Journal) -> float | None:
        """Of the clicks on these requests that users have made by now, the share in samples."""
        for path in set(generations.files(self._output, "samples")) - self._read:
            table = pq.read_table(path, columns=["request_id", "label_click"], partitioning=None)
            self._read.add(path)
            self._requests.update(table["request_id"].to_pylist())
            self._clicks += int(pc.sum(pc.cast(table["label_click"], pa.int64())).as_py() or 0)
        made = journal.clicks_on(self._requests)
        return self._clicks / made if made else None


class Scores:
    """The trainer's metrics by window of event time, read again when they are written anew."""

    def __init__(self, model: Path) -> None:
        self._path = model / "evaluation" / "metrics.parquet"
        self._read_at = 0
        self._table: pa.Table | None = None

    def table(self) -> pa.Table | None:
        """Of clicks over all rows, in the order of windows; None while there is none."""
        with contextlib.suppress(FileNotFoundError):
            written = self._path.stat().st_mtime_ns
            if written != self._read_at:
                self._read_at = written
                wanted = [("action", "=", "click"), ("slice", "=", "all")]
                self._table = pq.read_table(self._path, filters=wanted).sort_by("window_start")
        return self._table

    def by_window(self) -> list[tuple[int, float | None, float | None]]:
        """Beginning of the window (epoch ms), AUC, and calibration."""
        table = self.table()
        if table is None:
            return []
        columns = [table[name].to_pylist() for name in ("window_start", "auc", "calibration")]
        return list(zip(*columns, strict=True))

    def latest(self) -> float | None:
        """The AUC of the last window but one: the last one has few rows as yet."""
        known = [auc for _, auc, _ in self.by_window()[:-1] if auc is not None]
        return known[-1] if known else None
