"""A training run from its first file to its last: what is read, when it is saved, what is shown.

The session owns the ledger, the cursor and the metrics; a runner owns the parameters and does the
batches. Between batches the session has checkpoints and exports made: nothing is in flight then, so
everything that they hold is of one moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import msgspec

from trainer import checkpoint
from trainer.checkpoint import File, Manifest
from trainer.config import TrainerConfig
from trainer.evaluation.tally import Tally
from trainer.evolution import CannotGoOnError, Evolution, evolved
from trainer.features.encode import SliceNames
from trainer.reading.ledger import Cursor, Entry, Ledger, Planner
from trainer.run.batches import Job, Task
from trainer.run.messages import Outcome
from trainer.run.remote import LostShardError, RunError, ServerGoneError
from trainer.server.shard import Parts
from trainer.serving import files as serving
from trainer.serving.files import PartInfo
from trainer.spec import Since

#: How often rows are looked through for those to expire, in event time.
_EXPIRY_STEP_S = 3600
#: A file in `output.path` with the number of servers that a running trainer is to have.
RESIZE = "servers"
_RESIZE_LOOK_S = 1.0
#: How often a run looks whether files that are being written are complete.
_WRITING_LOOK_S = 0.2
#: How often a run goes back to the same checkpoint before it gives up.
_MOST_IN_VAIN = 5


_T = TypeVar("_T")
#: What was written, or None as long as it is being written. Raises ServerGoneError.
Written = Callable[[], Sequence[_T] | None]


class Runner(Protocol):
    """What does the batches and keeps the parameters: `run.local`, or `run.remote`."""

    job: Job
    #: Is told what happens to processes.
    say: Callable[[str], None]

    @property
    def wants_pause(self) -> bool:
        """Whether there is something to be done between batches."""

    def start(self, shards: Sequence[Parts]) -> None:
        """All parameters as in `shards`, or new."""

    def run(
        self,
        next_task: Callable[[], Task | None],
        done: Callable[[Outcome], None],
        pause: Callable[[], bool],
    ) -> None:
        """Does tasks until there are none or `pause` says so; nothing is in flight afterwards."""

    def take_tally(self) -> Tally:
        """The metrics of the batches since the last call; nothing is in flight."""

    def expire(self, now: int) -> int:
        """Drops what was not touched for long enough before `now` (seconds); how many rows."""

    def checkpoint(self, folder: Path) -> Written[File]:
        """Writes all parameters as they are now, while training goes on."""

    def export(
        self, folder: Path, number: int, *, everything: bool
    ) -> tuple[Written[PartInfo], Any]:
        """Writes what changed since the last export, or everything; and the dense vector."""

    def stats(self) -> Mapping[str, Any]:
        """`rows` and `bytes` of all tables, and more."""

    def resize(self, servers: int) -> float:
        """Another number of servers; the share of the rows that moved. Raises ValueError."""

    def stop(self) -> None:
        """Ends what it has started."""


@dataclass
class _Saving:
    """A checkpoint that is being written. The manifest lacks its files."""

    folder: Path
    manifest: Manifest
    written: Written[File]


@dataclass
class _Exporting:
    """An export that is being written. The manifest lacks its parts."""

    manifest: serving.Manifest
    written: Written[PartInfo]


class State(msgspec.Struct):
    """What a checkpoint keeps beside the parameters. `tally`: encoded.

    `since`: when the model got to know slots and heads that it did not begin with.
    """

    entries: list[Entry]
    cursor: Cursor
    step: int
    rows: int
    newest: int
    expired_at: int
    tally: bytes
    names: dict[str, list[str]]
    since: dict[str, Since] = {}


@dataclass
class Progress:
    """What a run has done, for those who watch. Seconds are summed over workers."""

    rows: int = 0
    steps: int = 0
    keys: int = 0
    expired: int = 0
    rollbacks: int = 0
    checkpoints: int = 0
    exports: int = 0
    seconds: list[float] = field(default_factory=lambda: [0.0] * 4)
    busy_s: float = 0.0
    _first: tuple[float, int] | None = None
    _last: float = 0.0

    def count(self, outcome: Outcome, now: float) -> None:
        """A batch that is done."""
        self.rows += outcome.rows
        self.steps += 1
        self.keys += outcome.keys
        self.seconds = [a + b for a, b in zip(self.seconds, outcome.seconds, strict=True)]
        if self._first is None:
            self._first = now, self.rows
        else:
            self.busy_s += now - self._last
        self._last = now

    def idle(self, now: float) -> None:
        """There was nothing to learn until now."""
        self._last = now

    @property
    def rate(self) -> float:
        """Samples a second from the end of the first batch on, while there was something to learn.

        (The first one waits for processes to start and for compilers.)
        """
        if self._first is None or not self.busy_s:
            return 0.0
        return (self.rows - self._first[1]) / self.busy_s


class Session:
    """`watch` is called after each batch, `stopping` asked before each."""

    def __init__(
        self,
        config: TrainerConfig,
        make_runner: Callable[[SliceNames], Runner],
        *,
        watch: Callable[[Session], None] = lambda _: None,
        stopping: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.root, self.output = config.folder, Path(config.output.path)
        self.output.mkdir(parents=True, exist_ok=True)
        self.names = SliceNames()
        self._replaced: list[Path] = []
        self._saving: _Saving | None = None
        self._exporting: _Exporting | None = None
        self._look_at = 0.0
        #: Whether there are metrics that the runner has not been asked for.
        self._untold = False
        self.runner = make_runner(self.names)
        self.runner.say = say
        self.progress = Progress()
        self._watch, self._stopping, self._say, self._clock = watch, stopping, say, clock
        self._checkpoints = self.output / "checkpoints"
        self._serving = self.output / "serving"
        self._resize_file = self.output / RESIZE
        self._resize_at = 0.0
        self._begin_anew()

    def _begin_anew(self) -> None:
        job = self.runner.job
        self.ledger = Ledger(job.samples)
        self.planner = Planner(self.ledger, Cursor(), job.batch_rows)
        self.tally = Tally(job.layout)
        self.step, self.expired_at, self.newest, self.rows = 0, 0, 0, 0
        self.since: dict[str, Since] = {}
        self._new_serving_run()

    def _new_serving_run(self) -> None:
        """Deltas say what changed since the export before, which nobody knows after a restart."""
        self.run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid4().hex[:6]}"
        self._export_number = 0
        self._base_due = True
        self._exported_step = -1

    # -- the run -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Until everything is read (or, following, until it is told to stop).

        Raises ReadError, CheckpointError, RunError.
        """
        output = self.config.output
        found = checkpoint.find(self._checkpoints)
        if found and output.resume:
            self._resume(found[-1])
        else:
            # another run's; they stay until there is one of this run
            self._replaced = found
            self.runner.start([])
        now = self._clock()
        self._checkpoint_at = now + output.checkpoint_every / 1e3
        self._export_at = now + output.export_every / 1e3
        self._saved_step = self.step
        self._vain, self._back_at = 0, -1
        self.ledger.discover(self.root)
        self._discover_at = now + self.config.samples.poll / 1e3
        while True:
            try:
                self._work()
                ended = self._stopping() or (self._nothing_left and not self._more())
                if ended and self._put_out():
                    return
            except (LostShardError, ServerGoneError) as error:
                self._go_back(error)

    @property
    def _nothing_left(self) -> bool:
        return self.planner.rows_left == 0

    def _work(self) -> None:
        self.runner.run(self._next_task, self._done, self._pause)
        self._end_writing()
        if self._untold:
            self._untold = False
            self.tally.merge(self.runner.take_tally())
        now = self._clock()
        self._expire()
        self._resize()
        if now >= self._checkpoint_at:
            self._save()
            self._checkpoint_at = self._clock() + self.config.output.checkpoint_every / 1e3
        if now >= self._export_at:
            self._export()
            self._export_at = self._clock() + self.config.output.export_every / 1e3

    def _more(self) -> bool:
        """Waits for new files, if that is wanted; whether to go on."""
        if not self.config.samples.follow:
            return bool(self.ledger.discover(self.root))
        if self._discover() == 0:
            self._watch(self)
            self.progress.idle(self._clock())
            time.sleep(min(0.05, self.config.samples.poll / 1e3))
        return True

    def _discover(self) -> int:
        now = self._clock()
        if now < self._discover_at:
            return 0
        self._discover_at = now + self.config.samples.poll / 1e3
        return len(self.ledger.discover(self.root))

    def _next_task(self) -> Task | None:
        if self.config.samples.follow:
            self._discover()
        while (ticket := self.planner.next()) is not None:
            entry = self.ledger.entries[ticket.entry]
            if entry.stream == "samples":
                return Task(ticket, entry)
            if self.config.samples.late_actions == "train":
                before = self.ledger.entries[: ticket.entry]
                here = [e for e in before if e.partition == entry.partition]
                return Task(ticket, entry, tuple(here))
        return None

    def _done(self, outcome: Outcome) -> None:
        self._untold = True
        self.step += 1
        self.rows += outcome.rows
        self.newest = max(self.newest, outcome.newest)
        now = self._clock()
        self.progress.count(outcome, now)
        if now >= self._look_at:
            self._end_writing()
        self._watch(self)

    def _pause(self) -> bool:
        now = self._clock()
        due = now >= self._checkpoint_at or now >= self._export_at or self._expiry_is_due
        if now >= self._resize_at:
            self._resize_at = now + _RESIZE_LOOK_S
            due = due or self._resize_file.exists()
        return due or self._stopping() or self.runner.wants_pause

    @property
    def _expiry_is_due(self) -> bool:
        expiring = any(t.expire_after_s is not None for t in self.runner.job.spec.tables)
        return expiring and self.newest // 1000 >= self.expired_at + _EXPIRY_STEP_S

    def _expire(self) -> None:
        """By event time, so a run that is repeated drops the same."""
        if self._expiry_is_due:
            self.expired_at = self.newest // 1000
            self.progress.expired += self.runner.expire(self.expired_at)

    def _resize(self) -> None:
        """Takes the number of servers out of the file that somebody put there, and changes it."""
        if not self._resize_file.exists():
            return
        text = self._resize_file.read_text().strip()
        self._resize_file.unlink()
        try:
            self.runner.resize(int(text))
        except ValueError as error:
            self._say(f"{self._resize_file}: {text!r}: {error}")

    # -- saving ------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Begins a checkpoint, if anything was learned since the last."""
        if self.step == self._saved_step or self._saving is not None:
            return
        folder = checkpoint.begin(self._checkpoints, self.step)
        state = State(
            self.ledger.entries,
            self.planner.cursor,
            self.step,
            self.rows,
            self.newest,
            self.expired_at,
            self.tally.encode(),
            self.names.names,
            self.since,
        )
        job = self.runner.job
        manifest = Manifest(
            self.step,
            job.spec,
            [],
            job.consistency,
            job.workers,
            # as it is now: the ledger grows while the files are written
            msgspec.to_builtins(state),
        )
        try:
            self._saving = _Saving(folder, manifest, self.runner.checkpoint(folder))
        except ServerGoneError:
            self._not_saved()

    def _end_save(self) -> None:
        """Makes the checkpoint that is being written complete, when its files are."""
        if self._saving is None:
            return
        saving = self._saving
        try:
            written = saving.written()
        except ServerGoneError:
            self._not_saved()
            return
        if written is None:
            return
        manifest = msgspec.structs.replace(saving.manifest, shards=list(written))
        keep = self.config.output.keep_checkpoints
        checkpoint.finish(saving.folder, manifest, keep, self._replaced)
        self._saving, self._replaced = None, []
        self._saved_step = manifest.step
        self.progress.checkpoints += 1

    def _not_saved(self) -> None:
        self._say("a server ended while a checkpoint was made; it is made again")
        self._saving = None
        self._checkpoint_at = self._clock()

    def _export(self) -> None:
        """Begins an export of the model for those who rank, if it has changed."""
        if self.step in (0, self._exported_step) or self._exporting is not None:
            return
        number = self._export_number
        everything = self._base_due or number % self.config.output.base_every == 0
        folder = self._serving / self.run_id
        folder.mkdir(parents=True, exist_ok=True)
        try:
            written, dense = self.runner.export(folder, number, everything=everything)
        except ServerGoneError:
            self._not_exported()
            return
        vector = None if dense is None else serving.write_dense(folder, number, dense)
        manifest = serving.Manifest(
            run_id=self.run_id,
            number=number,
            kind="base" if everything else "delta",
            parts=(),
            dense=vector,
            step=self.step,
            event_time=self.newest or None,
            created=time.time_ns() // 1_000_000,
            spec=self.runner.job.spec,
            since=self.since,
        )
        self._exporting = _Exporting(manifest, written)

    def _end_export(self) -> None:
        """Publishes the export that is being written, when its files are there."""
        if self._exporting is None:
            return
        exporting = self._exporting
        try:
            written = exporting.written()
        except ServerGoneError:
            self._not_exported()
            return
        if written is None:
            return
        manifest = msgspec.structs.replace(exporting.manifest, parts=tuple(written))
        serving.publish(self._serving, manifest)
        serving.prune(self._serving)
        self._exporting, self._base_due = None, False
        self._export_number, self._exported_step = manifest.number + 1, manifest.step
        self.progress.exports += 1

    def _not_exported(self) -> None:
        # some shards take it that their changes have gone out
        self._say("a server ended while the model was exported; the next export has all of it")
        self._exporting, self._base_due = None, True

    def _put_out(self) -> bool:
        """At the end: saves and exports; whether all of it is there."""
        self._save()
        self._export()
        while self._saving is not None or self._exporting is not None:
            self._end_writing()
            time.sleep(0.002)
        return self.step == 0 or self.step == self._saved_step == self._exported_step

    def _end_writing(self) -> None:
        self._look_at = self._clock() + _WRITING_LOOK_S
        self._end_save()
        self._end_export()

    # -- going on, going back ----------------------------------------------------------------------

    def _resume(self, folder: Path) -> None:
        manifest = checkpoint.read_manifest(folder)
        spec = self.runner.job.spec
        try:
            shards = evolved(checkpoint.read_shards(folder, manifest), manifest.spec, spec)
            evolution = Evolution.of(manifest.spec, spec)
        except CannotGoOnError as error:
            raise checkpoint.CheckpointError(
                f"{folder} is of another model: {error}. Set these back, or set output.path to a"
                " new folder, or output.resume = false to begin anew here"
            ) from None
        state = msgspec.convert(manifest.session, State)
        gone = {*evolution.removed, *evolution.old_heads}
        self.since = {name: at for name, at in state.since.items() if name not in gone}
        for name in (*evolution.added, *evolution.new_heads):
            self.since[name] = Since(state.step, state.newest)
        if evolution.text:
            self._say(f"the model has changed: {evolution.text}")
        self.ledger = Ledger(self.runner.job.samples, state.entries)
        self.planner = Planner(self.ledger, state.cursor, self.runner.job.batch_rows)
        self.tally = Tally.decode(state.tally)
        if self.tally.layout != self.runner.job.layout:
            self._say("what is evaluated has changed: the metrics begin anew")
            self.tally = Tally(self.runner.job.layout)
        self.names.names = {c: list(n) for c, n in state.names.items()}
        self.step, self.rows, self.newest = state.step, state.rows, state.newest
        self.expired_at = state.expired_at
        self._new_serving_run()
        self.runner.start(shards)
        self._say(f"resumed from {folder.name}: {self.rows:,} samples were learned before")

    def _go_back(self, error: Exception) -> None:
        """All shards and the cursor to the last checkpoint, so that each sample counts once."""
        while True:
            self.progress.rollbacks += 1
            # what is being written is of what is given up
            self._saving = self._exporting = None
            self._vain = self._vain + 1 if self._saved_step == self._back_at else 1
            self._back_at = self._saved_step
            if self._vain > _MOST_IN_VAIN:
                raise RunError(f"{error}, for the {self._vain}th time since the last checkpoint")
            rows = self.rows
            try:
                self._begin_from_the_last(error)
            except (LostShardError, ServerGoneError) as another:
                error = another
                continue
            self.ledger.discover(self.root)
            self.progress.rows -= rows - self.rows
            return

    def _begin_from_the_last(self, error: Exception) -> None:
        found = [] if self._replaced else checkpoint.find(self._checkpoints)
        if found:
            self._say(f"{error}: no copy is left; going back to {found[-1].name}")
            self._resume(found[-1])
        else:
            self._say(f"{error}: no copy is left, and no checkpoint; beginning anew")
            self._begin_anew()
            self.runner.start([])
        self._saved_step = self.step
