"""What `make chaos` shows of a run that did not make all faults."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos import command, trainer_run
from chaos.faults import FAULTS
from chaos.result import Difference, Result
from chaos.trainer_faults import TRAINER_FAULTS
from chaos.trainer_plan import Status

OF_JOIN = FAULTS[0].name


class NoCluster:
    def __init__(self, folder: Path, *, network: bool) -> None:
        self.lacks: dict[str, str] = {}
        self.folder = folder

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def nothing_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(command, "Cluster", NoCluster)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def made(fault: str) -> Result:
    return Result(1, fault, "it", None, 1.0, 2.0, Difference(10))


def chaos(monkeypatch: pytest.MonkeyPatch, error: Any, *arguments: str) -> int:
    """Makes a fault of the join, and then ends, or raises the error."""

    def run(*_: Any) -> Iterator[Result]:
        yield made(OF_JOIN)
        if error is not None:
            raise error

    monkeypatch.setattr(command, "_made", run)
    monkeypatch.setattr(command, "_ALL", (FAULTS[0], TRAINER_FAULTS[0]))
    return command.main(["--faults", "4", *arguments])


@pytest.mark.parametrize(
    "error", [AssertionError(), OSError(), subprocess.TimeoutExpired(["ip"], 3)]
)
def test_a_failure_leaves_the_tables(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: Any,
) -> None:
    table = tmp_path / "table.md"
    assert chaos(monkeypatch, error, "--markdown", str(table)) == command.DIFFERS
    assert OF_JOIN in capsys.readouterr().out
    assert OF_JOIN in table.read_text()
    (log,) = tmp_path.glob("*/gave-up.log")
    assert "Traceback" in log.read_text()


def test_an_error_nobody_thought_of_leaves_the_tables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.md"
    with pytest.raises(ZeroDivisionError):
        chaos(monkeypatch, ZeroDivisionError(), "--markdown", str(table))
    assert OF_JOIN in capsys.readouterr().out
    assert OF_JOIN in table.read_text()


def test_it_says_how_many_were_not_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chaos(monkeypatch, None) == command.SAME
    said = capsys.readouterr().err
    assert "not made, or not to the end: 1 of 2 faults of the join" in said
    assert "not made, or not to the end: 2 of 2 faults of the trainer" in said


def test_after_the_time_the_trainer_is_not_started(tmp_path: Path) -> None:
    told: list[str] = []
    results = trainer_run.run(
        tmp_path / "trainer",
        None,
        TRAINER_FAULTS,
        first=1,
        seed=0,
        faults_an_era=10,
        ends_at=0,
        told=told.append,
    )
    assert list(results) == []
    assert told == []
    assert not (tmp_path / "trainer").exists()


def test_a_server_that_is_not_there_is_a_lookup_error() -> None:
    with pytest.raises(LookupError):
        Status("1", 0, (), 1, {}, {}, ()).server(3)
