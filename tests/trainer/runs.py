"""Runs of the trainer for tests: made samples, a configuration, and what came of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.trainer.data import HOUR_MS, START_MS, Traffic, write
from benchmarks.trainer.straggling import straggling_main
from schemas.actions import ActionKind
from schemas.features import Feature, FeatureSchema, FeatureType
from schemas.samples import LATE_ACTIONS
from schemas.samples import samples as sample_layout
from tests.trainer.faults import faulty_main
from trainer.config import TrainerConfig, load
from trainer.evaluation.measures import Measures
from trainer.evaluation.tally import ALL
from trainer.features.encode import SliceNames
from trainer.run.build import runner_of
from trainer.run.coordinator import Coordinator, coordinator_of
from trainer.run.job import job_of
from trainer.run.local import LocalRunner
from trainer.run.runner import Runner
from trainer.run.session import Session
from trainer.server import ring
from trainer.server.resharding import resharded
from trainer.server.shard import ShardSnapshot

#: 16 batches of 1,024 in two files.
ROWS, BATCH = 16_384, 1_024
TRAFFIC = Traffic(rows=ROWS, files=2, hours=2, users=2_000, catalogue=1_000)


@dataclass
class Run:
    """A run that has ended. `parts`: all parameters as one shard, rows by key."""

    session: Session
    parts: ShardSnapshot
    backups: dict[int, ShardSnapshot] = field(default_factory=dict)
    primaries: dict[int, ShardSnapshot] = field(default_factory=dict)

    @property
    def log_loss(self) -> float:
        return self.metric("log_loss")

    def metric(self, name: str) -> float:
        whole = [m for m in self.session.tally.whole() if m.slice == ALL]
        return float(getattr(whole[0].measures, name))

    @property
    def runner(self) -> Coordinator:
        assert isinstance(self.session.runner, Coordinator)
        return self.session.runner


def unstamped(log: str) -> str:
    """The lines of a log without their times and levels."""
    return re.sub(r"^[-0-9T:.]+Z [A-Z]+ +", "", log, flags=re.MULTILINE)


def samples(folder: Path) -> Path:
    """The samples and their pipeline, under a new folder."""
    write(TRAFFIC, folder)
    return folder


def configured(folder: Path, output: Path, *overrides: str) -> TrainerConfig:
    ours = (f"output.path={output}", f"train.batch={BATCH}", *overrides)
    return load(folder / "trainer.toml", ours)


def train(
    config: TrainerConfig,
    *,
    slow: dict[int, float] | None = None,
    faults: tuple[str, Path] | None = None,
    stop_after: int | None = None,
) -> Run:
    """Trains to the end, or until so many batches are done.

    `slow`: see `straggling_main`. `faults`: a class of `tests.trainer.faults`, and its folder.
    """
    job = job_of(config)

    def runner_for(names: SliceNames) -> Runner:
        if faults is not None:
            return coordinator_of(config, job, names, partial(faulty_main, *faults))
        if slow is not None:
            return coordinator_of(config, job, names, partial(straggling_main, slow))
        return runner_of(config, job, names)

    def stopping() -> bool:
        return stop_after is not None and session.progress.steps >= stop_after

    def watch(running: Session) -> None:
        if faults is not None and isinstance(running.runner, Coordinator):
            tell(running.runner, faults[1])

    session = Session(config, runner_for, stopping=stopping, watch=watch)
    runner = session.runner
    try:
        session.run()
        if isinstance(runner, LocalRunner):
            return Run(session, one([runner.shard.snapshot()]))
        assert isinstance(runner, Coordinator)
        # a server that is started instead of one that died may not be up yet
        end = time.monotonic() + 60
        while not runner.repaired and time.monotonic() < end:
            runner.repair()
        primaries = snapshots_of(runner)
        backups = snapshots_of(runner, backups=True)
        return Run(session, one(list(primaries.values())), backups, primaries)
    finally:
        runner.stop()


def snapshots_of(runner: Coordinator, *, backups: bool = False) -> dict[int, ShardSnapshot]:
    """A copy of every shard, from its primary or its backup."""
    found = {}
    for shard in runner.placement.shards:
        runner.commands.settle(runner.placement, shard, runner.dispatcher.step)
        holders = (
            runner.placement.holders(shard)[1:] if backups else runner.placement.holders(shard)
        )
        if holders:
            found[shard] = runner.commands.snapshot(holders[0], shard)
    return found


def tell(runner: Coordinator, folder: Path) -> None:
    """Tells those who make faults which processes there are."""
    for number, process in runner.servers.running.items():
        path = folder / f"server-{number}"
        if not path.exists():
            path.write_text(str(process.pid))


def one(shards: list[ShardSnapshot]) -> ShardSnapshot:
    """All shards as one, rows by key."""
    parts = resharded(shards, ring.owners([0], 1), [0])[0]
    parts.tables = [rows.sorted() for rows in parts.tables]
    return parts


def assert_equal(
    one: ShardSnapshot, other: ShardSnapshot, *, rtol: float = 0.0, atol: float = 0.0
) -> None:
    """Keys are the same, and the state of every optimizer, to the bit or within tolerances."""
    for mine, theirs in zip(one.tables, other.tables, strict=True):
        np.testing.assert_array_equal(mine.keys, theirs.keys)
        np.testing.assert_array_equal(mine.touched, theirs.touched)
        for state, another in zip(mine.states, theirs.states, strict=True):
            if rtol or atol:
                np.testing.assert_allclose(state, another, rtol=rtol, atol=atol)
            else:
                np.testing.assert_array_equal(state, another)
    for vector, another in zip(one.dense, other.dense, strict=True):
        np.testing.assert_allclose(vector, another, rtol=rtol, atol=atol)


# -- in this process -------------------------------------------------------------------------------


class LateWriter:
    """Writes when it is told to, in place of the thread that writes while a run goes on.

    What is written has to be a copy then, as the run has learned more by that time.
    """

    def __init__(self) -> None:
        self.at_once = False
        self._held: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, make: Callable[[], Any], /) -> Future[Any]:
        future: Future[Any] = Future()
        self._held.append((future, make))
        if self.at_once:
            self.write()
        return future

    def write(self) -> None:
        held, self._held = self._held, []
        for future, make in held:
            future.set_result(make())

    def shutdown(self) -> None:
        """There is no thread."""


def session_of(
    config: TrainerConfig,
    *,
    stopping: Callable[[], bool] = lambda: False,
    watch: Callable[[Session], None] = lambda _: None,
    by_batches: bool = False,
) -> Session:
    """A run in this process that has not begun.

    `by_batches`: every batch takes a second, and nothing else any time, so what has a shorter
    interval is done after each; and it is written when the next batch is learned.
    """
    job = job_of(config)
    if not by_batches:
        return Session(
            config, lambda names: runner_of(config, job, names), stopping=stopping, watch=watch
        )
    writer = LateWriter()

    def learned(running: Session) -> None:
        writer.write()
        writer.at_once = False
        watch(running)

    def ending() -> bool:
        ends = stopping()
        if ends or session.planner.rows_left == 0:
            # what is put out at the end is waited for
            writer.at_once = True
            writer.write()
        return ends

    session = Session(
        config,
        lambda names: LocalRunner(job, names, writer),
        stopping=ending,
        watch=learned,
        clock=lambda: float(session.progress.steps),
    )
    return session


def local(session: Session) -> LocalRunner:
    assert isinstance(session.runner, LocalRunner)
    return session.runner


def train_here(
    config: TrainerConfig, *, stop_after: int | None = None, by_batches: bool = False
) -> Run:
    """As `train`, in this process."""
    session = session_of(
        config,
        stopping=lambda: stop_after is not None and session.progress.steps >= stop_after,
        by_batches=by_batches,
    )
    return run(session)


def run(session: Session) -> Run:
    """Runs a session in this process to its end."""
    try:
        session.run()
        return Run(session, one([local(session).shard.snapshot()]))
    finally:
        session.runner.stop()


class Joined:
    """A folder with what a joining job has written, a file at a time, and its configurations.

    Every sample has `features`, strings by name, which are the model's slots. `more`: TOML, for the
    pipeline's file.
    """

    def __init__(
        self,
        root: Path,
        kinds: tuple[ActionKind, ...],
        *,
        policy: str = "wait",
        first_emit_after: str | None = None,
        features: tuple[str, ...] = ("ad",),
        more: str = "",
    ) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.kinds = root, kinds
        schema = FeatureSchema.of(Feature(name, FeatureType("string")) for name in features)
        self.layout = sample_layout(schema, kinds)
        parts = [
            f'[pipeline]\nname = "made"\n[join]\nkey = "request_id"\npolicy = "{policy}"',
            *(f'[actions.{k.name}]\nwindow = "{k.window_ms}ms"\nlabel = "any"' for k in kinds),
            *(f'[features.{name}]\ntype = "string"' for name in features),
            '[output]\npath = "out"',
            more,
        ]
        if first_emit_after is not None:
            parts.append(f'[emission]\nfirst_emit_after = "{first_emit_after}"')
        (root / "pipeline.toml").write_text("\n".join(parts))
        slots = [f"[slots.{name}]" for name in features]
        ours = ['[output]\npath = "model"', *slots, '[optimizer.linear]\ntype = "ftrl"']
        (root / "trainer.toml").write_text("\n".join(ours))

    def configured(self, output: str, *overrides: str) -> TrainerConfig:
        """Its runs go to the folder `output` of the root, and count by no column."""
        return configured(self.root, self.root / output, "evaluation.by=[]", *overrides)

    def samples(self, columns: Mapping[str, Any], *, hour: int = 0, name: str = "part-0") -> Path:
        """A file of the hour: final rows without actions, but for what `columns` say.

        Labels follow from the delays, requests are r0, r1, …, and rows come at the hour's start.
        """
        return self._write("samples", hour, name, self.table(columns, hour=hour))

    def table(self, columns: Mapping[str, Any], *, hour: int = 0) -> pa.Table:
        rows = len(next(iter(columns.values())))
        made: dict[str, Any] = {
            "sample_id": np.arange(rows),
            "request_id": [f"r{n}" for n in range(rows)],
            "user_id": ["u"] * rows,
            "item_id": ["i"] * rows,
            "position": [0] * rows,
            "event_time": [START_MS + hour * HOUR_MS] * rows,
            "observed_ms": [max(kind.window_ms for kind in self.kinds)] * rows,
            "exposed": [None] * rows,
            "sampling_rate": [1.0] * rows,
            "revision": [0] * rows,
            "kind": ["final"] * rows,
        }
        for kind in self.kinds:
            delays = pa.array(columns.get(f"delay_{kind.name}_ms", [None] * rows), pa.int64())
            made |= {
                f"label_{kind.name}": pc.cast(delays.is_valid(), pa.int8()),
                f"delay_{kind.name}_ms": delays,
                f"mature_{kind.name}": [True] * rows,
            }
        made |= columns
        arrays = [pa.array(made[field.name], field.type) for field in self.layout]
        return pa.table(arrays, schema=self.layout)

    def late(self, *rows: Mapping[str, Any], hour: int = 0, name: str = "late-0") -> Path:
        """A file of late actions: clicks after 5 s on r0's sample, but for what `rows` say."""
        full = [
            {
                "sample_id": 0,
                "request_id": "r0",
                "user_id": "u",
                "item_id": "i",
                "position": 0,
                "request_time": START_MS + hour * HOUR_MS,
                "action": "click",
                "event_time": START_MS + hour * HOUR_MS + 5_000,
                "delay_ms": 5_000,
                "reason": "after_settle",
                **row,
            }
            for row in rows
        ]
        table = pa.Table.from_pylist(full, schema=LATE_ACTIONS)
        return self._write("late_actions", hour, name, table)

    def _write(self, stream: str, hour: int, name: str, table: pa.Table) -> Path:
        moment = datetime.fromtimestamp(START_MS / 1e3 + hour * 3600, timezone.utc)
        folder = self.root / "out" / stream / f"dt={moment:%Y-%m-%d}" / f"hr={moment:%H}"
        folder.mkdir(parents=True, exist_ok=True)
        # the trainer is to see it when it is whole
        pq.write_table(table, folder / f".{name}")
        return (folder / f".{name}").rename(folder / f"{name}.parquet")


def of_each_action(run: Run) -> dict[str, Measures]:
    """The metrics of the whole run."""
    return {m.action: m.measures for m in run.session.tally.whole() if m.slice == ALL}
