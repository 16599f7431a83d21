"""Encoded chunks of files; the one that is probably next is made in a thread meanwhile.

Decoding and encoding are almost all in pyarrow and numba, which let other threads run. So with two
cores a worker that learns, or waits for servers, does not wait for files as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from trainer.features.chunk import Chunk
from trainer.reading.ledger import Entry

_Place = tuple[Entry, int]


class Chunks:
    """`make`: makes chunk number `index` of a file. It is never called by two threads at once.

    `rows`: those of a full chunk. `ahead`: whether to use the thread; None: if there is a core for
    it.
    """

    def __init__(
        self, make: Callable[[Entry, int], Chunk], rows: int, ahead: bool | None = None
    ) -> None:
        self._make, self._rows = make, rows
        if ahead is None:
            ahead = _cores() > 1
        self._thread = ThreadPoolExecutor(1, "reading") if ahead else None
        self._current: tuple[_Place, Chunk] | None = None
        self._next: tuple[_Place, Future[Chunk]] | None = None

    def of(self, entry: Entry, index: int, after: Entry | None) -> Chunk:
        """The chunk. `after`: the file that is probably read after this one.

        Raises what `make` raises for this chunk; a fault of a later one shows when that is asked
        for.
        """
        place = entry, index
        if self._current is None or self._current[0] != place:
            self._current = None
            self._current = place, self._taken(place)
        if self._next is None:
            self._begin(self._guess(place, after))
        return self._current[1]

    def close(self) -> None:
        """Waits for the chunk that is being made."""
        if self._thread is not None:
            self._thread.shutdown()

    def _taken(self, place: _Place) -> Chunk:
        begun, self._next = self._next, None
        if begun is not None:
            there, made = begun
            if there == place:
                return made.result()
            # not what is wanted, but `make` must not run twice at once
            made.exception()
        return self._make(*place)

    def _guess(self, place: _Place, after: Entry | None) -> _Place | None:
        entry, index = place
        if (index + 1) * self._rows < entry.rows:
            return entry, index + 1
        return None if after is None or not after.rows else (after, 0)

    def _begin(self, place: _Place | None) -> None:
        if self._thread is not None and place is not None:
            self._next = place, self._thread.submit(self._make, *place)


def _cores() -> int:
    """Those that this process may use, as far as the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
