"""What the set-up decides: which locks an environment is made from, and when nothing is to do.

Nothing is installed here: the commands are written down, and what they would leave is made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from services import bootstrap


class Machine:
    """A checkout whose environments are folders, and the commands that were run in it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requirements = folder / "requirements"
        self.requirements.mkdir()
        for level in ("jobs", "advise", "dev", "trainer", "online", "trainer-dev", "trainer-bench"):
            self.lock(level, "first")
        for other in ("build", "java", "bootstrap"):
            self.lock(other, "first")
        self.commands: list[list[str]] = []
        self.fails: str | None = None
        for project in ("", "trainer"):
            (folder / project).mkdir(exist_ok=True)
            (folder / project / "pyproject.toml").write_text(project)
        jobs = bootstrap.Environment(folder / ".venv", folder, bootstrap.JOBS.levels)
        trainer = bootstrap.Environment(
            folder / ".venv-trainer", folder / "trainer", bootstrap.TRAINER.levels
        )
        levels = {level: one for one in (jobs, trainer) for level in one.levels}
        monkeypatch.setattr(bootstrap, "LEVELS", levels)
        monkeypatch.setattr(bootstrap, "ROOT", folder)
        monkeypatch.setattr(bootstrap, "REQUIREMENTS", self.requirements)
        monkeypatch.setattr(bootstrap, "BUILD_LOCK", self.requirements / "build.lock")
        monkeypatch.setattr(bootstrap, "UV_ENVIRONMENT", folder / ".uv")
        monkeypatch.setattr(bootstrap, "_run", self._run)

    def lock(self, name: str, content: str) -> None:
        (self.requirements / f"{name}.lock").write_text(f"{name} {content}")

    def installed(self, *levels: str) -> list[str]:
        """The locks that a set-up installs into environments."""
        self.commands.clear()
        bootstrap.set_up(levels)
        locks = [part for command in self.commands if "sync" in command for part in command]
        return [Path(part).name for part in locks if part.endswith(".lock")]

    def _run(self, what: str, command: Sequence[str | Path], explain: str) -> None:
        self.commands.append([str(part) for part in command])
        if what == self.fails:
            raise bootstrap.SetupError(f"could not set up {what}")
        if what.startswith("the environment"):
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True, exist_ok=True)
            python.touch()
        if what == "uv":
            (bootstrap.UV_ENVIRONMENT / "bin" / "uv").touch()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_second_run_has_nothing_to_do(machine: Machine) -> None:
    assert machine.installed("trainer") == ["build.lock", "trainer.lock"]
    assert machine.installed("trainer") == []
    assert machine.commands == []


def test_a_wider_level_serves_a_narrower_one_and_is_not_taken_away(machine: Machine) -> None:
    assert machine.installed("trainer-dev") == ["build.lock", "trainer-dev.lock"]
    assert machine.installed("trainer") == []
    assert machine.installed("trainer-bench") == ["build.lock", "trainer-bench.lock"]
    # out of date: what was wished for stays so
    machine.lock("trainer-bench", "second")
    assert machine.installed("trainer") == ["build.lock", "trainer-bench.lock"]


def test_a_test_run_asks_for_nothing_that_only_a_benchmark_needs(machine: Machine) -> None:
    assert machine.installed("trainer") == ["build.lock", "trainer.lock"]
    machine.lock("trainer", "second")
    assert machine.installed("trainer-dev") == ["build.lock", "trainer-dev.lock"]


def test_what_was_interrupted_is_done_again(machine: Machine) -> None:
    machine.fails = "the locked packages"
    with pytest.raises(bootstrap.SetupError, match="could not set up the locked packages"):
        machine.installed("dev")
    machine.fails = None
    assert "dev.lock" in machine.installed("dev")


def test_another_python_makes_the_environment_anew(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.installed("trainer")
    _run_by(monkeypatch, 10 if sys.version_info.minor != 10 else 11)
    assert machine.installed("trainer") == ["build.lock", "trainer.lock"]
    assert any("venv" in command and "--clear" in command for command in machine.commands)


class _Version(NamedTuple):
    major: int
    minor: int


def _run_by(monkeypatch: pytest.MonkeyPatch, minor: int) -> None:
    """The set-up is run by another Python."""
    other = SimpleNamespace(
        version_info=_Version(3, minor), executable=sys.executable, stderr=sys.stderr
    )
    monkeypatch.setattr("services.bootstrap.sys", other)


def test_what_the_machine_lacks_is_one_line(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = SimpleNamespace(util=SimpleNamespace(find_spec=lambda module: None))
    monkeypatch.setattr("services.bootstrap.importlib", nothing)
    assert bootstrap.main(["jobs"]) == 1
    assert "lacks its module 'venv'" in capsys.readouterr().err
    _run_by(monkeypatch, 9)
    assert bootstrap.main(["jobs"]) == 1
    assert "this is Python 3.9, and 3.10, 3.11 or 3.12 is needed" in capsys.readouterr().err
    assert bootstrap.main(["everything"]) == 2
    assert machine.commands == []
