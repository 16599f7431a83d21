"""Chunks that workers share: made once, whoever is killed, and the same as those made alone."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.test_encode import FORMS, all_slots, no_targets, samples, spec_of
from trainer.features.batch import ByRow
from trainer.features.chunk import Chunk
from trainer.features.encode import Encoder, SliceNames
from trainer.features.packing import packed, unpacked
from trainer.reading.files import ReadError
from trainer.reading.ledger import Entry
from trainer.run import shared_chunks
from trainer.run.shared_chunks import KEPT, PREFIX, SharedChunks, remove_abandoned
from trainer.spec import Slot

FILE = Entry("samples", "samples/dt=2026-01-01/hr=00/a.parquet", 1_000, 5_000, (5_000,))
SLICED = ("int64", "string")


def encoder_of(names: SliceNames | None = None) -> Encoder:
    return Encoder(spec_of(all_slots()), SLICED, (names or SliceNames()).number)


def chunk_of(encoder: Encoder, form: str = "plain") -> Chunk:
    table = FORMS[form](samples(0, 100))
    return encoder.chunk(table, no_targets(table.num_rows))


def parts_of(made: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """All that a batch has, by where it is."""
    if isinstance(made, ByRow):
        # what is between the end of a row and the next start is not set
        rows = [np.arange(a, b) for a, b in zip(made.starts, made.ends, strict=True)]
        there = np.concatenate([np.empty(0, np.int64), *rows])
        yield from ((f"{at}.{n}", getattr(made, n)[there]) for n in ("key", "value", "slot"))
        made = (made.starts, made.ends)
    elif is_dataclass(made):
        made = [getattr(made, field.name) for field in fields(made)]
    if isinstance(made, list | tuple):
        for n, each in enumerate(made):
            yield from parts_of(each, f"{at}.{n}")
    else:
        yield at, made


def assert_same(one: Chunk, other: Chunk) -> None:
    """Their batches are equal to the bit, and of types for which numba compiles the same code."""
    assert one.rows == other.rows
    for by_row in (False, True):
        for start, rows in ((0, one.rows), (one.rows // 3, one.rows // 2)):
            batches = [parts_of(c.batch(start, rows, by_row=by_row)) for c in (one, other)]
            for (at, mine), (place, theirs) in zip(*batches, strict=True):
                assert at == place
                if isinstance(mine, np.ndarray):
                    assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), at
                    assert mine.flags.writeable == theirs.flags.writeable, at
                    np.testing.assert_array_equal(mine, theirs, at)
                else:
                    assert mine == theirs, at


@pytest.mark.parametrize("form", FORMS)
def test_a_packed_chunk_gives_the_same_batches(form: str) -> None:
    names = SliceNames()
    encoder = encoder_of(names)
    chunk = chunk_of(encoder, form)
    memory = bytearray().join(packed(chunk, "mark"))
    assert_same(chunk, unpacked(memory, "mark", encoder_of(names)))


def test_a_clipped_value_is_still_told_of() -> None:
    encoder = Encoder(spec_of([Slot("x", "float64", "value", clip=1.0)], tables=1))
    chunk = chunk_of(encoder)
    memory = bytearray().join(packed(chunk, "mark"))
    found = unpacked(memory, "mark", encoder).batch(0, 100).clipped
    assert found == chunk.batch(0, 100).clipped
    assert found


@pytest.mark.parametrize("memory", [b"", bytes(7), bytes(64), b"\xff" * 64, b"\x05" + bytes(90)])
def test_what_is_no_packed_chunk_is_refused(memory: bytes) -> None:
    with pytest.raises(ValueError, match="no packed chunk"):
        unpacked(memory, "mark", encoder_of())


def test_another_chunk_is_refused() -> None:
    encoder = encoder_of()
    memory = bytearray().join(packed(chunk_of(encoder), "mine"))
    with pytest.raises(ValueError, match="not yours"):
        unpacked(memory, "yours", encoder)


# -- workers ---------------------------------------------------------------------------------------


class Making:
    """Of one worker. `meanwhile` is called while a chunk is being made."""

    def __init__(self, folder: Path, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.made: list[int] = []
        self._encoder, self._meanwhile = encoder_of(), meanwhile
        self.shared = SharedChunks(self._make, self._encoder, str(folder))

    def _make(self, entry: Entry, index: int) -> Chunk:
        self.made.append(index)
        self._meanwhile()
        return chunk_of(self._encoder)

    def of(self, index: int) -> Chunk:
        return self.shared(FILE, index)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "shared"


def test_one_makes_and_the_others_map(folder: Path) -> None:
    one, other, third = (Making(folder) for _ in range(3))
    assert_same(one.of(0), chunk_of(encoder_of()))
    assert_same(other.of(0), chunk_of(encoder_of()))
    other.of(1)
    one.of(1)
    third.of(1)
    assert (one.made, other.made, third.made) == ([0], [1], [])


def test_what_one_writes_to_its_chunk_others_do_not_see(folder: Path) -> None:
    one, other = Making(folder), Making(folder)
    mine, theirs = one.of(0), other.of(0)
    before = theirs.targets.labels.copy()
    mine.targets.labels[:] = -1
    np.testing.assert_array_equal(theirs.targets.labels, before)


def test_no_more_chunks_are_kept_than_others_may_still_want(folder: Path) -> None:
    one, late = Making(folder), Making(folder)
    first = one.of(0)
    files = open_files()
    for index in range(1, 20):
        one.of(index)
    assert open_files() <= files + KEPT
    assert len([path for path in folder.iterdir() if path.is_symlink()]) == KEPT
    # what was given out lasts, and who comes too late makes it again
    assert_same(late.of(0), first)
    assert late.made == [0]


def test_an_error_is_that_of_each_who_asks_and_the_lock_is_free(folder: Path) -> None:
    def fail() -> None:
        raise ReadError("broken")

    one, other = Making(folder, fail), Making(folder, fail)
    for worker in (one, other, one):
        with pytest.raises(ReadError, match="broken"):
            worker.of(0)


BODY = """
import sys, time
from pathlib import Path
from tests.trainer.test_shared_chunks import Making

folder, when = Path(sys.argv[1]), sys.argv[2]

def meanwhile():
    if when == "making":
        print("there", flush=True)
        time.sleep(600)

worker = Making(folder, meanwhile)
worker.of(0)
print("there", flush=True)
time.sleep(600)
"""


@pytest.fixture
def another(folder: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """A worker in a process of its own that makes chunk 0. It stays while it makes it, or after."""
    started = []

    def start(when: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", BODY, str(folder), when], stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_worker_that_is_killed_while_it_makes_a_chunk_holds_up_nobody(
    folder: Path, another: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    other = another("making")
    other.send_signal(signal.SIGKILL)
    other.wait()
    worker, third = Making(folder), Making(folder)
    began = time.monotonic()
    worker.of(0)
    third.of(0)
    assert time.monotonic() - began < shared_chunks.WAIT_S
    assert (worker.made, third.made) == ([0], [])


def test_the_memory_of_a_killed_worker_goes_with_it(
    folder: Path, another: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    other = another("done")
    worker, third = Making(folder), Making(folder)
    mapped = worker.of(0)
    assert worker.made == []
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert_same(mapped, chunk_of(encoder_of()))
    (link,) = (path for path in folder.iterdir() if path.is_symlink())
    assert not link.exists()
    third.of(0)
    worker.of(0)
    assert (worker.made, third.made) == ([], [0])


def test_a_worker_that_hangs_is_not_waited_for_for_long(
    folder: Path,
    another: Callable[[str], subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = another("making")
    other.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(shared_chunks, "WAIT_S", 0.2)
    worker = Making(folder)
    worker.of(0)
    worker.of(1)
    # the lock of 0 is that of 16, and is not waited for again
    monkeypatch.setattr(shared_chunks, "WAIT_S", 600.0)
    worker.of(16)
    assert worker.made == [0, 1, 16]


def test_a_link_that_leads_to_something_else_is_replaced(folder: Path, tmp_path: Path) -> None:
    one = Making(folder)
    one.of(0)
    (link,) = (path for path in folder.iterdir() if path.is_symlink())
    pipe, empty, noise = tmp_path / "pipe", tmp_path / "empty", tmp_path / "noise"
    os.mkfifo(pipe)
    empty.touch()
    noise.write_bytes(os.urandom(4_096))
    one.of(1)
    (of_another,) = (path for path in folder.iterdir() if path.is_symlink() and path != link)
    for place in (pipe, empty, noise, tmp_path / "nothing", tmp_path, of_another.readlink()):
        link.unlink(missing_ok=True)
        link.symlink_to(place)
        other = Making(folder)
        other.of(0)
        assert other.made == [0], place
        other.shared.close()


# -- where it is not possible ----------------------------------------------------------------------


@pytest.fixture
def no_room() -> Iterator[None]:
    """Files may have no more than so many bytes, and so may memory that is one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("no_room")
def test_without_memory_each_makes_its_own_and_says_so_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = Making(folder), Making(folder)
    files = open_files()
    for worker in (one, other):
        for index in (0, 1, 2):
            assert_same(worker.of(index), chunk_of(encoder_of()))
        assert worker.made == [0, 1, 2]
    assert open_files() == files
    assert caplog.text.count("decoded by each worker for itself") == 2
    assert "File too large" in caplog.text


def test_a_folder_that_cannot_be_made_or_goes_is_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    worker = Making(tmp_path / "file" / "shared")
    worker.of(0)
    worker.of(0)
    assert caplog.text.count("decoded by each worker for itself") == 1
    other = Making(tmp_path / "shared")
    other.of(0)
    for path in (tmp_path / "shared").iterdir():
        path.unlink()
    (tmp_path / "shared").rmdir()
    other.of(1)
    other.of(2)
    assert other.made == [0, 1, 2]
    assert caplog.text.count("decoded by each worker for itself") == 2


def test_folders_of_runs_that_are_gone_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    gone, used, young = (tmp_path / f"{PREFIX}{name}" for name in ("gone", "used", "young"))
    workers = [Making(path) for path in (gone, used, young)]
    for worker in workers:
        worker.of(0)
    workers[0].shared.close()
    workers[2].shared.close()
    for path in (gone, used):
        os.utime(path, (time.time() - 3_600, time.time() - 3_600))
    remove_abandoned()
    assert sorted(tmp_path.iterdir()) == sorted([used, young])
    assert workers[1].of(0).rows
    assert workers[1].made == [0]
