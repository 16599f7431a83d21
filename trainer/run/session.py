"""A training run from its first file to its last: what is read, and when it is saved.

The session owns the ledger, the cursor and the metrics. A runner owns the parameters and runs the
batches. Checkpoints and exports are begun between batches, when nothing is in flight, so everything
in them is from one moment.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from configuration.stores import Folder, StorePath
from trainer import checkpoint
from trainer.config import TrainerConfig
from trainer.disk import naming
from trainer.evaluation.tally import Tally
from trainer.evolution import CannotGoOnError, Evolution, evolved
from trainer.features.encode import SliceNames
from trainer.reading.ledger import Entry, Ledger
from trainer.reading.planner import Cursor, Planner
from trainer.run.instruments import Instruments, Unsaved
from trainer.run.job import Outcome, Task
from trainer.run.progress import Progress
from trainer.run.runner import LostShardError, RunError, Runner, ServerGoneError
from trainer.run.saving import Checkpoints, Exports
from trainer.spec import Since

#: Seconds of event time between two searches for rows to expire.
_EXPIRY_STEP_S = 3600
#: A file in `output.path` with the number of servers that a running trainer should have.
RESIZE = "servers"
_RESIZE_LOOK_S = 1.0
#: In an object store, where each look is a request.
_RESIZE_LOOK_STORED_S = 10.0
#: Seconds between two checks whether files are completely written.
_WRITING_LOOK_S = 0.2
#: How often a run goes back to the same checkpoint before it gives up.
_MOST_IN_VAIN = 5

_log = logging.getLogger(__name__)


class State(msgspec.Struct):
    """What a checkpoint stores beside the parameters.

    `tally`: encoded. `since`: when the model got slots and heads that it did not begin with.
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


class Session:
    """One run.

    `watch` is called after each batch, `stopping` before each. `report` is called between batches
    every `log.every`, `evaluate` every `evaluation.every` if there is something new. `clock`: in
    seconds. `step` and `rows`: batches and samples that the parameters have learned from. `newest`:
    the event time of the newest sample, epoch ms.
    """

    def __init__(
        self,
        config: TrainerConfig,
        make_runner: Callable[[SliceNames], Runner],
        *,
        watch: Callable[[Session], None] = lambda _: None,
        stopping: Callable[[], bool] = lambda: False,
        report: Callable[[Session], None] = lambda _: None,
        evaluate: Callable[[Session], None] = lambda _: None,
        instruments: Instruments | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.root, self.output = config.folder, config.output_folder
        with naming(self.output):
            self.output.mkdir(parents=True, exist_ok=True)
        self.names = SliceNames()
        self._look_at = 0.0
        #: Whether the runner has metrics that were not taken yet.
        self._untold = False
        self.runner = make_runner(self.names)
        self.instruments = instruments or Instruments(self.runner.job.layout.actions)
        self.runner.instruments = self.instruments
        self.progress = Progress()
        self._watch, self._stopping, self._clock = watch, stopping, clock
        self._report, self._evaluate = report, evaluate
        #: The step that `evaluate` was last called at.
        self._evaluated = 0
        #: The file that is learned next, and when it was written.
        self._next_file: tuple[str, float] | None = None
        self._checkpoints = Checkpoints(self.output / "checkpoints", config.output.keep_checkpoints)
        self._exports = Exports(self.output / "serving", config.output.base_every)
        self._resize_file = self.output / RESIZE
        self._resize_at = 0.0
        self._begin_anew()

    def _begin_anew(self) -> None:
        job = self.runner.job
        self.ledger = Ledger(job.samples, wanted=self.config.wanted)
        self.planner = Planner(self.ledger, Cursor(), job.batch_rows)
        self.tally = Tally(job.layout)
        self.step, self.expired_at, self.newest, self.rows = 0, 0, 0, 0
        self.since: dict[str, Since] = {}
        self._exports.restart()

    @property
    def run_id(self) -> str:
        """The name of the folder of this run's exports."""
        return self._exports.run_id

    # -- the run -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Train until everything is read (or, when following, until `stopping`).

        Raises ReadError, CheckpointError, RunError, OSError.
        """
        output = self.config.output
        self._vain, self._back_at = 0, -1
        found = self._checkpoints.find()
        if found and not output.resume:
            _log.warning(
                f"beginning anew (output.resume = false): the {len(found)} checkpoints of an"
                f" earlier run, up to {found[-1].name}, go when this run has saved its first"
            )
            self._checkpoints.replace(found)
            found = []
        try:
            self._start(found)
        except (LostShardError, ServerGoneError) as error:
            # a server that ends while it gets its shards is like one that ends later
            self._go_back(error)
        now = self._clock()
        self._checkpoint_at = now + output.checkpoint_every / 1e3
        self._export_at = now + output.export_every / 1e3
        self._report_at = now + self.config.log.every / 1e3
        self._evaluate_at = now + self.config.evaluation.every / 1e3
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
        """Batches up to the next pause, and the work in that pause."""
        self.runner.run(self._next_task, self._done, self._pause)
        self._end_writing()
        if self._untold:
            self._untold = False
            taken = self.runner.take_tally()
            self.tally.merge(taken)
            self.instruments.evaluated(taken)
        now = self._clock()
        self._expire()
        self._resize()
        if now >= self._checkpoint_at:
            self._save()
            self._checkpoint_at = self._clock() + self.config.output.checkpoint_every / 1e3
        if now >= self._export_at:
            self._export()
            self._export_at = self._clock() + self.config.output.export_every / 1e3
        if now >= self._report_at:
            self._size()
            self._turn()
            self._report(self)
            self._report_at = self._clock() + self.config.log.every / 1e3
        if now >= self._evaluate_at:
            if self.step != self._evaluated:
                self._evaluate(self)
                self._evaluated = self.step
            self._evaluate_at = self._clock() + self.config.evaluation.every / 1e3

    def _size(self) -> None:
        """Measure the tables."""
        try:
            stats = self.runner.stats()
        except ServerGoneError:
            return  # its backup answers the next time
        self.instruments.sized(int(stats["rows"]), int(stats["bytes"]))

    def _turn(self) -> None:
        """Say that the run goes on."""
        self.instruments.turned(self.planner.rows_left, self.newest, self._pending_since())
        self._watch(self)

    def _pending_since(self) -> float | None:
        """When the oldest file with rows to learn was written, epoch seconds; None: no such."""
        if self._nothing_left:
            return None
        path = self.ledger.entries[self.planner.cursor.entry].path
        if self._next_file is None or self._next_file[0] != path:
            try:
                written = (self.root / path).stat().st_mtime
            except OSError:
                written = time.time()  # reading it says what is wrong
            self._next_file = path, written
        return self._next_file[1]

    def _more(self) -> bool:
        """Wait for new files, if configured. Returns whether to continue."""
        if not self.config.samples.follow:
            return bool(self.ledger.discover(self.root))
        if self._discover() == 0:
            self._turn()
            self.progress.idle(self._clock())
            time.sleep(min(0.05, self.config.samples.poll / 1e3))
        return True

    def _discover(self) -> int:
        now = self._clock()
        if now < self._discover_at:
            return 0
        self._discover_at = now + self.config.samples.poll / 1e3
        found = len(self.ledger.discover(self.root))
        if found:
            self._turn()  # a worker that hangs on the first of them must show
        return found

    def _next_task(self) -> Task | None:
        if self.config.samples.follow:
            self._discover()
        while (ticket := self.planner.next()) is not None:
            entry = self.ledger.entries[ticket.entry]
            if entry.stream == "samples":
                after = next(iter(self.ledger.entries[ticket.entry + 1 : ticket.entry + 2]), None)
                known = after is not None and after.stream == "samples"
                return Task(ticket, entry, after=after if known else None)
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
        self.instruments.learned(outcome)
        if now >= self._look_at:
            self._end_writing()
        self._turn()

    def _pause(self) -> bool:
        now = self._clock()
        times = (self._checkpoint_at, self._export_at, self._report_at, self._evaluate_at)
        due = now >= min(times) or self._expiry_is_due
        if now >= self._resize_at:
            stored = isinstance(self.output, StorePath)
            self._resize_at = now + (_RESIZE_LOOK_STORED_S if stored else _RESIZE_LOOK_S)
            due = due or self._resize_file.is_file()
        return due or self._stopping() or self.runner.wants_pause

    # -- between batches ---------------------------------------------------------------------------

    @property
    def _expiry_is_due(self) -> bool:
        expiring = any(t.expire_after_s is not None for t in self.runner.job.spec.tables)
        return expiring and self.newest // 1000 >= self.expired_at + _EXPIRY_STEP_S

    def _expire(self) -> None:
        """Drop old rows by event time, so a repeated run drops the same rows."""
        if self._expiry_is_due:
            self.expired_at = self.newest // 1000
            gone = self.runner.expire(self.expired_at)
            self.progress.expired += gone
            self.instruments.expired(gone)

    def _resize(self) -> None:
        """Change to the number of servers that somebody has written into the file."""
        file = self._resize_file
        if not file.is_file():
            return
        try:
            text = file.read_text().strip()
            if not text:
                return  # the writer has not written the number yet
            file.unlink()
            self.runner.resize(int(text))
        except (ValueError, OSError) as error:
            _log.warning(f"{file}: the number of servers stays as it is: {error}")

    def _save(self) -> None:
        """Begin a checkpoint, if anything was learned since the last one."""
        if self.step == self._checkpoints.step or self._checkpoints.writing:
            return
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
        try:
            # the present state, because the ledger grows while the files are written
            self._checkpoints.begin(self.runner, self.step, msgspec.to_builtins(state))
            self.instruments.unsaved.begun()
        except ServerGoneError:
            self._not_saved()

    def _not_saved(self) -> None:
        _log.warning("a server ended while a checkpoint was made; it is made again")
        self.instruments.gave_up("checkpoint")
        self._checkpoints.discard()
        self._checkpoint_at = self._clock()

    def _export(self) -> None:
        """Begin an export of the model for ranking services, if it has changed."""
        if self.step in (0, self._exports.step) or self._exports.writing:
            return
        try:
            self._exports.begin(self.runner, self.step, self.newest, self.since)
            self.instruments.unserved.begun()
        except ServerGoneError:
            self._not_exported()

    def _not_exported(self) -> None:
        _log.warning("a server ended while the model was exported; the next export has all of it")
        self.instruments.gave_up("export")
        self._exports.discard()

    def _end_writing(self) -> None:
        """Complete the checkpoint and the export that are being written, if all files are there."""
        self._look_at = self._clock() + _WRITING_LOOK_S
        try:
            if self._checkpoints.finish():
                self.progress.checkpoints += 1
                self._wrote("checkpoint", self._checkpoints, self.instruments.unsaved, logging.INFO)
        except ServerGoneError:
            self._not_saved()
        try:
            if self._exports.finish():
                self.progress.exports += 1
                self._wrote("export", self._exports, self.instruments.unserved, logging.DEBUG)
        except ServerGoneError:
            self._not_exported()

    def _wrote(self, what: str, files: Checkpoints | Exports, since: Unsaved, level: int) -> None:
        """A checkpoint or an export (`what`) is complete."""
        seconds, step = files.took_s, files.step
        since.completed()
        self.instruments.wrote(what, seconds)
        _log.log(
            level,
            f"{what} of batch {step:,} in {seconds:.1f} s",
            extra={"fields": {"event": what, "batch": step, "seconds": seconds}},
        )

    def _put_out(self) -> bool:
        """At the end: save and export. Returns whether all of it is complete."""
        self._save()
        self._export()
        while self._checkpoints.writing or self._exports.writing:
            self._end_writing()
            time.sleep(0.002)
        return self.step == 0 or self.step == self._checkpoints.step == self._exports.step

    # -- going on, going back ----------------------------------------------------------------------

    def _resume(self, folder: Folder) -> None:
        """Restore everything from a checkpoint. Raises CheckpointError."""
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
            _log.info(f"the model has changed: {evolution.text}")
        self.ledger = Ledger(self.runner.job.samples, state.entries, wanted=self.config.wanted)
        self.planner = Planner(self.ledger, state.cursor, self.runner.job.batch_rows)
        self.tally = Tally.decode(state.tally)
        if self.tally.layout != self.runner.job.layout:
            _log.warning("what is evaluated has changed: the metrics begin anew")
            self.tally = Tally(self.runner.job.layout)
        self.names.names = {c: list(n) for c, n in state.names.items()}
        self.step, self.rows, self.newest = state.step, state.rows, state.newest
        self.expired_at = state.expired_at
        self._exports.restart()
        self.runner.start(shards)
        _log.info(f"resumed from {folder.name}: {self.rows:,} samples were learned before")
        steps = self.runner.job.steps
        if manifest.steps != steps:
            # z, n and weights mean the same for both, so they go on as they are
            _log.warning(
                f"until {folder.name} a key took a step per {manifest.steps}; from here on it takes"
                f' one per {steps}. To go on as before, set train.steps = "{manifest.steps}"'
            )

    def _go_back(self, error: Exception) -> None:
        """Set all shards and the cursor to the last checkpoint, so that each sample counts once.

        Raises RunError when that was in vain too often.
        """
        while True:
            self.progress.rollbacks += 1
            self.instruments.rolled_back()
            self._checkpoints.discard()
            self._exports.discard()
            saved = self._checkpoints.step
            self._vain = self._vain + 1 if saved == self._back_at else 1
            self._back_at = saved
            if self._vain > _MOST_IN_VAIN:
                raise RunError(
                    f"{_told(error)}, for the {self._vain}th time since the last checkpoint"
                )
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
        found = self._checkpoints.find()
        to = f"going back to {found[-1].name}" if found else "there is no checkpoint; starting over"
        _log.warning(f"{_told(error)}; {to}")
        self._start(found)

    def _start(self, found: list[Folder]) -> None:
        """As in the newest of these checkpoints, or anew if there is none."""
        if found:
            self._resume(found[-1])
        else:
            self._begin_anew()
            self.runner.start([])
        self._checkpoints.step = self.step


def _told(error: Exception) -> str:
    """What has happened, for a person."""
    if isinstance(error, LostShardError):
        return f"no replica of {error} is left"
    return f"{error} ended while it was waited for"
