"""Batches that are made before they are asked for: the same, and each made once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.trainer import runs
from tests.trainer.test_shared_chunks import parts_of
from trainer.features.batch import Batch
from trainer.features.chunk import Chunk
from trainer.features.encode import SliceNames
from trainer.reading.ledger import Ledger
from trainer.reading.planner import ALL, Cursor, Planner
from trainer.run import batches as module
from trainer.run.batches import Batches
from trainer.run.job import Job, Task, job_of

#: A file has 8,192 rows: two chunks of three batches, and one of two.
CHUNK_ROWS = 3 * runs.BATCH


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.samples(tmp_path_factory.mktemp("batches"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The rows of each batch that is made: the first, and how many."""
    monkeypatch.setattr(module, "CHUNK_ROWS", CHUNK_ROWS)
    found: list[tuple[int, int]] = []
    make = Chunk.batch

    def noted(chunk: Chunk, start: int, rows: int, *, by_row: bool = False) -> Batch:
        found.append((start, rows))
        return make(chunk, start, rows, by_row=by_row)

    monkeypatch.setattr(Chunk, "batch", noted)
    return found


def job_in(folder: Path, output: Path, *overrides: str) -> Job:
    return job_of(runs.configured(folder, output, *overrides))


def tasks_of(job: Job, folder: Path) -> list[Task]:
    ledger = Ledger(job.samples)
    ledger.discover(folder / "out")
    planner = Planner(ledger, Cursor(), job.batch_rows)
    tasks = []
    while (ticket := planner.next()) is not None:
        tasks.append(Task(ticket, ledger.entries[ticket.entry]))
    return tasks


def assert_same(one: Batch, other: Batch) -> None:
    for (at, mine), (place, theirs) in zip(parts_of(one), parts_of(other), strict=True):
        assert at == place
        np.testing.assert_array_equal(mine, theirs, at)


def compared(job: Job, tasks: Sequence[Task], made: list[tuple[int, int]], part: int) -> int:
    """Compares all batches with those that nobody has prepared. Returns how many were made."""
    parts = job.workers if job.consistency == "bsp" else 1
    alone = Batches(job, SliceNames().number)
    expected = [alone.of(task, part, parts) for task in tasks]
    alone.close()
    made.clear()
    batches = Batches(job, SliceNames().number)
    for task, batch in zip(tasks, expected, strict=True):
        assert_same(batches.of(task, part, parts), batch)
        batches.prepare(task, part, parts)
    batches.close()
    return len(made)


@pytest.mark.parametrize("steps", ["sample", "batch"])
@pytest.mark.parametrize("part", [0, 2])
def test_prepared_batches_are_the_same_and_each_is_made_once(
    folder: Path, tmp_path: Path, made: list[tuple[int, int]], steps: str, part: int
) -> None:
    several = ("train.workers=3", "train.servers=1", "train.consistency=bsp") if part else ()
    job = job_in(folder, tmp_path / "model", f"train.steps={steps}", *several)
    tasks = tasks_of(job, folder)
    assert compared(job, tasks, made, part) == len(tasks)


def test_the_next_batch_of_the_chunk_is_there_before_it_is_asked_for(
    folder: Path, tmp_path: Path, made: list[tuple[int, int]]
) -> None:
    job = job_in(folder, tmp_path / "model")
    tasks = tasks_of(job, folder)
    batches = Batches(job, SliceNames().number)
    counts = []
    for task in tasks[:9]:
        made.clear()
        batches.of(task, 0, 1)
        at_once = len(made)
        batches.prepare(task, 0, 1)
        counts.append((at_once, len(made) - at_once))
    # the first of a chunk is not prepared, and neither is that of a file
    assert counts == [(1, 1), (0, 1), (0, 0), (1, 1), (0, 1), (0, 0), (1, 1), (0, 0), (1, 1)]
    batches.close()


def test_another_batch_than_the_prepared_one_may_be_asked_for(
    folder: Path, tmp_path: Path, made: list[tuple[int, int]]
) -> None:
    # as after a roll-back
    job = job_in(folder, tmp_path / "model")
    tasks = tasks_of(job, folder)
    order = [tasks[n] for n in (0, 2, 1, 1, 0, 9, 4, 5)]
    # what was prepared in vain was made, too
    assert compared(job, order, made, 0) > len(order)


def test_the_last_batch_of_a_file_may_be_short(
    folder: Path, tmp_path: Path, made: list[tuple[int, int]]
) -> None:
    job = job_in(folder, tmp_path / "model", "train.batch=1000")
    tasks = tasks_of(job, folder)
    assert [task.ticket.rows for task in tasks[7:9]] == [1000, 192]
    assert compared(job, tasks, made, 0) == len(tasks)


@pytest.mark.parametrize("consistency", ["ssp", "async"])
def test_where_workers_take_turns_nothing_is_prepared(
    folder: Path, tmp_path: Path, made: list[tuple[int, int]], consistency: str
) -> None:
    settings = ("train.workers=2", "train.servers=1", f"train.consistency={consistency}")
    job = job_in(folder, tmp_path / "model", *settings)
    task = tasks_of(job, folder)[0]
    batches = Batches(job, SliceNames().number)
    batches.prepare(task, 0, 1)
    batches.close()
    assert not made


def test_late_actions_are_not_prepared(
    folder: Path, tmp_path: Path, made: list[tuple[int, int]]
) -> None:
    job = job_in(folder, tmp_path / "model")
    task = tasks_of(job, folder)[0]
    ticket = msgspec.structs.replace(task.ticket, rows=ALL)
    batches = Batches(job, SliceNames().number)
    batches.prepare(msgspec.structs.replace(task, ticket=ticket), 0, 1)
    batches.close()
    assert not made
