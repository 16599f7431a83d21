"""Chunks that are made ahead: the same ones, each once, and never two at a time."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from typing import Any

import pytest

from trainer.reading.files import ReadError
from trainer.reading.ledger import Entry
from trainer.run.chunks import Chunks

ROWS = 10
DEADLINE_S = 60.0


def entry_of(name: str, rows: int) -> Entry:
    return Entry("samples", f"samples/dt=2026-01-01/hr=00/{name}", 1, rows, (rows,))


class Making:
    """Makes chunks of nothing but their names, and notes what it was asked for."""

    def __init__(self, broken: tuple[str, int] | None = None) -> None:
        self.made: list[tuple[str, int]] = []
        self.another = threading.Condition()
        self._alone, self._broken = threading.Lock(), broken

    def __call__(self, entry: Entry, index: int) -> Any:
        assert self._alone.acquire(blocking=False), "made twice at once"
        place = entry.path.rsplit("/", 1)[1], index
        with self.another:
            self.made.append(place)
            self.another.notify_all()
        time.sleep(0.002)  # time enough for another thread to be in here as well, if it may
        self._alone.release()
        if place == self._broken:
            raise ReadError(f"{place} is broken")
        return place

    def wait_for(self, place: tuple[str, int]) -> None:
        with self.another:
            assert self.another.wait_for(lambda: place in self.made, DEADLINE_S)


def asked(chunks: Chunks, entry: Entry, index: int, after: Entry | None = None) -> Any:
    return chunks.of(entry, index, after)


FILES = [entry_of("a", 25), entry_of("b", 10), entry_of("c", 11)]
PLACES = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("c", 0), ("c", 1)]


@pytest.mark.parametrize("ahead", [False, True])
def test_files_in_order_have_each_chunk_made_once(ahead: bool) -> None:
    making = Making()
    chunks = Chunks(making, ROWS, ahead)
    found: list[Any] = []
    for entry, after in pairwise([*FILES, None]):
        assert entry is not None
        # batches of one chunk ask for it again
        every = range(-(-entry.rows // ROWS))
        found += [[asked(chunks, entry, n, after) for _ in range(3)] for n in every]
    assert found == [[place] * 3 for place in PLACES]
    assert making.made == PLACES


def test_the_next_chunk_is_made_before_it_is_asked_for() -> None:
    making = Making()
    chunks = Chunks(making, ROWS, ahead=True)
    chunks.of(FILES[0], 0, FILES[1])
    making.wait_for(("a", 1))
    assert making.made == PLACES[:2]
    chunks.of(FILES[0], 2, None)
    chunks.of(FILES[0], 2, FILES[1])  # known since: the file was found meanwhile
    making.wait_for(("b", 0))


def test_another_chunk_than_the_guess_may_be_asked_for() -> None:
    making = Making()
    chunks = Chunks(making, ROWS, ahead=True)
    places = [(0, 0), (2, 1), (0, 1), (0, 0), (1, 0), (0, 2)] * 5
    for file, index in places:
        assert asked(chunks, FILES[file], index, FILES[1]) == ("abc"[file], index)


def test_a_broken_chunk_is_an_error_where_it_is_asked_for() -> None:
    making = Making(broken=("a", 1))
    chunks = Chunks(making, ROWS, ahead=True)
    chunks.of(FILES[0], 0, None)
    making.wait_for(("a", 1))
    assert asked(chunks, FILES[0], 0) == ("a", 0)
    with pytest.raises(ReadError, match="broken"):
        chunks.of(FILES[0], 1, None)
    # and no other is to blame for it
    assert asked(chunks, FILES[1], 0) == ("b", 0)
