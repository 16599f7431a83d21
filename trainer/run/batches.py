"""From tasks to batches: reads, labels and encodes samples, a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pyarrow as pa

from configuration.stores import from_address
from trainer.features.batch import Batch
from trainer.features.chunk import Chunk
from trainer.features.encode import Encoder
from trainer.losses.targets import Bools, targets
from trainer.reading.files import ReadError
from trainer.reading.late_actions import correction_rows
from trainer.reading.ledger import Entry
from trainer.reading.planner import ALL, Ticket, rows_from
from trainer.reading.tables import CHUNK_ROWS, SampleReader
from trainer.run.chunks import Chunks
from trainer.run.job import Job, Task
from trainer.run.shared_chunks import SharedChunks

#: A part of a task: the task's ticket and entry, the number of the part, and that of all parts.
_Piece = tuple[Ticket, Entry, int, int]


def _piece(task: Task, part: int, parts: int) -> _Piece:
    return task.ticket, task.entry, part, parts


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
        #: What `prepare` has made, and for what.
        self._prepared: tuple[_Piece, Batch] | None = None

    def close(self) -> None:
        """No more batches are asked for."""
        self._chunks.close()
        if self._shared is not None:
            self._shared.close()

    def of(self, task: Task, part: int, parts: int) -> Batch:
        """Part number `part` of `parts` equal parts of a task; it may have no rows.

        Raises ReadError.
        """
        prepared, self._prepared = self._prepared, None
        if prepared is not None and prepared[0] == _piece(task, part, parts):
            return prepared[1]
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

    def prepare(self, task: Task, part: int, parts: int) -> None:
        """Make the batch that is asked for next, if that is known and its chunk is here.

        `task`, `part`, `parts`: of the batch that was asked for last.
        """
        ticket, total = task.ticket, task.entry.rows
        start = ticket.start + ticket.rows
        # where workers take turns, the batch that follows is probably another one's
        mine = parts == self._job.workers
        here = start // self._chunk_rows == ticket.start // self._chunk_rows
        if ticket.rows == ALL or start >= total or not (mine and here):
            return
        rows = rows_from(start, total, self._job.batch_rows)
        following = msgspec.structs.replace(ticket, start=start, rows=rows)
        task = msgspec.structs.replace(task, ticket=following)
        self._prepared = _piece(task, part, parts), self.of(task, part, parts)

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
