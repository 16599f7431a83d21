"""From tasks to batches: reads, labels and encodes samples, a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from configuration.stores import from_address
from trainer.features.batch import Batch
from trainer.features.chunk import Chunk
from trainer.features.encode import Encoder
from trainer.losses.targets import Bools, targets
from trainer.reading.files import ReadError
from trainer.reading.late_actions import correction_rows
from trainer.reading.ledger import Entry
from trainer.reading.planner import ALL
from trainer.reading.tables import CHUNK_ROWS, SampleReader
from trainer.run.chunks import Chunks
from trainer.run.job import Job, Task
from trainer.run.shared_chunks import SharedChunks


class Batches:
    """Makes batches. `number`: see `SliceNames.number`; it is called by the thread that asks for a
    batch.
    """

    def __init__(self, job: Job, number: Callable[[str, str], int]) -> None:
        self._job = job
        self._encoder = Encoder(job.spec, job.layout.columns, number)
        # a whole number of batches, so that no batch crosses chunks
        self._chunk_rows = job.batch_rows * max(1, CHUNK_ROWS // job.batch_rows)
        read = ["event_time", *job.rules.columns, *self._encoder.columns]
        self._columns = list(dict.fromkeys(read))
        self._root = from_address(job.root)
        self._reader = SampleReader(self._root, self._columns, self._chunk_rows, job.samples)
        self._shared = (
            SharedChunks(self._of_file, self._encoder, job.shared) if job.shared else None
        )
        self._chunks = Chunks(self._shared or self._of_file, self._chunk_rows)

    def close(self) -> None:
        """No more batches are asked for."""
        self._chunks.close()
        if self._shared is not None:
            self._shared.close()

    def of(self, task: Task, part: int, parts: int) -> Batch:
        """Part number `part` of `parts` equal parts of a task; it may have no rows.

        Raises ReadError.
        """
        if task.ticket.rows == ALL:
            chunk = self._corrections(task)
            start, rows = 0, chunk.rows
        else:
            index, start = divmod(task.ticket.start, self._chunk_rows)
            chunk, rows = self._chunks.of(task.entry, index, task.after), task.ticket.rows
        first = rows * part // parts
        last = rows * (part + 1) // parts
        by_row = self._job.steps == "sample"
        return chunk.batch(start + first, last - first, by_row=by_row)

    def _of_file(self, entry: Entry, index: int) -> Chunk:
        return self._encoded(entry, self._reader.chunk(entry, index), None)

    def _corrections(self, task: Task) -> Chunk:
        job = self._job
        try:
            made = correction_rows(
                self._root,
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
