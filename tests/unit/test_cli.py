"""The one command: each subcommand is there, explains itself, and refuses unknown options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def sample_stitch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_lists_every_subcommand() -> None:
    done = sample_stitch("--help")
    assert done.returncode == 0
    for name, (_, text) in COMMANDS.items():
        assert any(name in line and text in line for line in done.stdout.splitlines()), name


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
def test_a_subcommand_explains_itself(name: str) -> None:
    done = sample_stitch(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Usage: sample-stitch {name}" in done.stdout
    assert "Exit codes: 0" in " ".join(done.stdout.split())


def test_an_unknown_option_is_a_usage_error() -> None:
    done = sample_stitch("summary", "--nope")
    assert done.returncode == 2
    assert "No such option: --nope" in done.stderr
