"""From tickets to batches: reads, labels and encodes, a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pyarrow as pa

from schemas.actions import ActionKind
from schemas.features import Feature, FeatureSchema
from schemas.samples import samples as sample_layout
from trainer.evaluation.tally import Layout
from trainer.features.batch import Batch
from trainer.features.encode import Chunk, Encoder
from trainer.losses.targets import Bools, LossRules, targets
from trainer.reading.files import ReadError
from trainer.reading.late_actions import correction_rows
from trainer.reading.ledger import ALL, Entry, Ticket
from trainer.reading.tables import CHUNK_ROWS, SampleReader
from trainer.run.clocks import Consistency
from trainer.spec import ModelSpec


class Job(msgspec.Struct, frozen=True):
    """What every process of a run knows.

    `root` has `samples/` and `late_actions/`, whose features and kinds of action are `features`
    and `kinds`. `exposure` and `leaves_out`: what corrections are made by (`corrections.apply`).
    `slow`: seconds that each batch of a worker takes longer, for experiments. `channel`:
    "module:name:argument" of a function that every worker wraps its channel with, for tests of
    faults: it is given the channel, the worker's number and the argument.
    """

    spec: ModelSpec
    rules: LossRules
    root: str
    features: tuple[Feature, ...]
    kinds: tuple[ActionKind, ...]
    exposure: str | None
    leaves_out: bool
    batch_rows: int
    workers: int
    consistency: Consistency
    layout: Layout
    slow: dict[int, float] = {}
    channel: str | None = None

    @property
    def samples(self) -> pa.Schema:
        """The columns of a file of samples."""
        return sample_layout(FeatureSchema(self.features), self.kinds)


class Task(msgspec.Struct, frozen=True):
    """A batch: its ticket, the entry that it is of, and what a late file corrects (`before`)."""

    ticket: Ticket
    entry: Entry
    before: tuple[Entry, ...] = ()


class Batches:
    """Makes batches. `number` gives the number of a slice's value, see `encode.SliceNames`."""

    def __init__(self, job: Job, number: Callable[[str, str], int]) -> None:
        self._job = job
        self._encoder = Encoder(job.spec, job.layout.columns, number)
        # whole batches, so that none lies in two chunks
        self._chunk_rows = job.batch_rows * max(1, CHUNK_ROWS // job.batch_rows)
        read = ["event_time", *job.rules.columns, *self._encoder.columns]
        self._columns = list(dict.fromkeys(read))
        self._reader = SampleReader(Path(job.root), self._columns, self._chunk_rows, job.samples)
        self._chunk: tuple[str, int, Chunk] | None = None

    def of(self, task: Task, part: int, parts: int) -> Batch:
        """One of so many parts of a task, which may have no rows. Raises ReadError."""
        if task.ticket.rows == ALL:
            chunk = self._corrections(task)
            start, rows = 0, chunk.rows
        else:
            index, start = divmod(task.ticket.start, self._chunk_rows)
            chunk, rows = self._of_file(task.entry, index), task.ticket.rows
        first = rows * part // parts
        last = rows * (part + 1) // parts
        return chunk.batch(start + first, last - first)

    def _of_file(self, entry: Entry, index: int) -> Chunk:
        if self._chunk is None or self._chunk[:2] != (entry.path, index):
            made = self._encoded(entry, self._reader.chunk(entry, index), None)
            self._chunk = entry.path, index, made
        return self._chunk[2]

    def _corrections(self, task: Task) -> Chunk:
        job = self._job
        try:
            made = correction_rows(
                Path(job.root),
                task.before,
                task.entry,
                job.samples,
                job.kinds,
                exposure=job.exposure,
                anew=job.leaves_out,
            )
        except ValueError as error:
            raise ReadError(f"{task.entry.path}: {error}") from None
        return self._encoded(task.entry, made.rows.select(self._columns), made.changed)

    def _encoded(self, entry: Entry, rows: pa.Table, changed: Bools | None) -> Chunk:
        try:
            return self._encoder.chunk(rows, targets(rows, self._job.rules, changed))
        except ValueError as error:
            raise ReadError(f"{entry.path}: {error}") from None
