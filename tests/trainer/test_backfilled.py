"""The trainer over samples of which hours were joined again (docs/trainer.md)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.trainer.data import files
from schemas import generations
from schemas.generations import Generation, hour_of
from tests.trainer import runs
from tests.trainer.runs import BATCH, ROWS, samples, train
from trainer.config import TrainerConfig
from trainer.run.session import Session

HALF = ROWS // 2
MADE = "_generations/g"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return samples(tmp_path / "traffic")


def configured(folder: Path, output: Path, *overrides: str) -> TrainerConfig:
    return runs.configured(folder, output, "output.resume=true", *overrides)


def hours_of(folder: Path) -> list[str]:
    partitions = ["/".join(file.parts[-3:-1]) for file in files(folder)]
    return [hour_of(partition) or "" for partition in partitions]


def publish(folder: Path) -> None:
    """The first hour is joined again; its new file stands for the old one."""
    old, _ = files(folder)
    output = folder / "out"
    new = output / MADE / old.relative_to(output)
    new.parent.mkdir(parents=True)
    shutil.copy(old, new)
    first, end = hours_of(folder)
    made = Generation(folder=MADE, first=first, end=end, published="")
    (output / generations.POINTER).write_bytes(generations.encode([made]))


def test_an_hour_is_trained_on_anew_when_that_is_asked_for_and_only_once(
    folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "model"
    first, end = hours_of(folder)
    assert train(configured(folder, output)).session.rows == ROWS
    publish(folder)
    # nothing is new for a run that goes on
    assert train(configured(folder, output)).session.rows == ROWS
    anew = ["samples.anew=true", f"samples.from={first}", f"samples.to={end}"]
    assert train(configured(folder, output, *anew)).session.rows == ROWS + HALF
    for more in (anew, ()):
        again = train(configured(folder, output, *more)).session
        assert again.rows == ROWS + HALF
    # and what comes in other hours, in the same ledger
    shutil.copy(files(folder)[1], files(folder)[1].with_name("part-later.parquet"))
    assert train(configured(folder, output)).session.rows == ROWS + 2 * HALF


def test_an_hour_that_is_replaced_while_it_is_read(folder: Path, tmp_path: Path) -> None:
    """A run that was stopped within the hour finishes it with the files that it knows."""
    output = tmp_path / "model"
    plain = train(configured(folder, tmp_path / "plain"))
    assert train(configured(folder, output), stop_after=3).session.rows == 3 * BATCH
    publish(folder)
    done = train(configured(folder, output))
    assert done.session.rows == ROWS
    runs.assert_equal(done.parts, plain.parts)


def test_an_hour_is_replaced_under_a_trainer_that_follows(folder: Path, tmp_path: Path) -> None:
    looks, published = 0, False

    def watch(session: Session) -> None:
        nonlocal looks, published
        if session.progress.steps == 3 and not published:
            publish(folder)
            published = True
        looks += session.planner.rows_left == 0

    following = ("samples.follow=true", "samples.poll=1ms")
    config = configured(folder, tmp_path / "model", *following)
    session = runs.session_of(config, watch=watch, stopping=lambda: looks > 3)
    runs.run(session)
    assert published
    assert session.rows == ROWS
    assert not any(entry.path.startswith(MADE) for entry in session.ledger.entries)


def test_a_new_run_reads_the_new_rows_of_an_hour(folder: Path, tmp_path: Path) -> None:
    publish(folder)
    old, _ = files(folder)
    old.unlink()  # it was removed after it was replaced
    session = train(configured(folder, tmp_path / "model")).session
    assert session.rows == ROWS
    assert [entry.path.startswith(MADE) for entry in session.ledger.entries] == [True, False]


def test_only_some_hours(folder: Path, tmp_path: Path) -> None:
    first, end = hours_of(folder)
    some = [f"samples.from={first}", f"samples.to={end}"]
    assert train(configured(folder, tmp_path / "model", *some)).session.rows == HALF
