"""How far reading has come in the ledger, and the batches that come next."""

from __future__ import annotations

import msgspec

from trainer.reading.ledger import Ledger

#: `Ticket.rows` of a late file, whose corrections are not counted before they are made.
ALL = -1


class Cursor(msgspec.Struct, frozen=True):
    """The next row to read. `row` is counted within the row group.

    What was read to its end is never pointed into: (entry + 1, 0, 0) stands for that, whether the
    ledger has such an entry already or not.
    """

    entry: int = 0
    row_group: int = 0
    row: int = 0


class Ticket(msgspec.Struct, frozen=True):
    """A batch: `rows` rows of an entry from row `start` of the file on; ALL: whatever it gives."""

    entry: int
    start: int
    rows: int


def rows_from(start: int, total: int, batch_rows: int) -> int:
    """How many rows the batch has that begins at row `start` of a file of `total` rows."""
    # up to a multiple of the batch, wherever the cursor was left with another batch
    return min(batch_rows - start % batch_rows, total - start)


class Planner:
    """Batches of at most `batch_rows` rows, one after the other, from `cursor` on.

    A batch never crosses a file, and a late file is one batch. `cursor` is where the next one
    begins: a planner that starts there gives the same ones. Files that the ledger gets meanwhile
    come in their turn.
    """

    def __init__(self, ledger: Ledger, cursor: Cursor, batch_rows: int) -> None:
        self._ledger = ledger
        self._batch_rows = batch_rows
        self._entry = cursor.entry
        self._start = cursor.row
        if cursor.entry < len(ledger.entries):
            self._start += sum(ledger.entries[cursor.entry].row_groups[: cursor.row_group])
        self._done = self._start + sum(entry.rows for entry in ledger.entries[: cursor.entry])

    @property
    def cursor(self) -> Cursor:
        """Where the next batch begins."""
        if self._start == 0:
            return Cursor(self._entry)
        row = self._start
        for group, rows in enumerate(self._ledger.entries[self._entry].row_groups):
            if row < rows:
                return Cursor(self._entry, group, row)
            row -= rows
        raise AssertionError("a cursor within an entry is before its last row")

    @property
    def rows_left(self) -> int:
        """Rows that are still to be read; for late files the actions, which give no more rows than
        that.
        """
        return self._ledger.rows - self._done

    def next(self) -> Ticket | None:
        """The next batch, or None as long as the ledger has no more rows."""
        while self._entry < len(self._ledger.entries):
            entry, start = self._ledger.entries[self._entry], self._start
            if start == entry.rows:
                self._entry, self._start = self._entry + 1, 0
                continue
            late = entry.stream == "late_actions"
            rows = entry.rows - start if late else rows_from(start, entry.rows, self._batch_rows)
            ticket = Ticket(self._entry, start, ALL if late else rows)
            self._done += rows
            self._start += rows
            if self._start == entry.rows:
                self._entry, self._start = self._entry + 1, 0
            return ticket
        return None
