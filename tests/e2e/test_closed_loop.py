"""The closed loop on real processes, of which one of each kind is killed on the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KILLED = ("a task manager", "a parameter server", "the ranking service", "the broker")


@pytest.mark.thorough
@pytest.mark.timeout(1800)
def test_every_sample_is_what_happened_though_processes_are_killed(tmp_path: Path) -> None:
    """Exit code 0 says that the audit is at zero and every label is that of the world."""
    command = [
        sys.executable,
        "-m",
        "examples.closed_loop.live",
        "--folder",
        str(tmp_path / "loop"),
    ]
    done = subprocess.run(
        [*command, "--days", "0.5", "--minutes", "1.2", "--kill"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1700,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert [kind for kind in KILLED if f"kill -9: {kind}" in done.stdout] == [*KILLED]
    assert "audit: 0 unaccounted for" in done.stdout
    assert "0 missing, 0 stray, 0 wrong" in done.stdout
    assert "<svg" in (tmp_path / "loop" / "page.html").read_text()
