"""The commands of docs/tutorial.md, run in their order on a broker of the test's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.kafka_broker import KafkaBroker

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 600
#: What sets up the machine, or starts and stops what the test has already.
ELSEWHERE = ("make setup", "make kafka-up", "make kafka-down", "export PATH")


def commands(page: Path) -> list[str]:
    """The commands in the `sh` blocks of a page, one per line."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [line for line in lines if not line.startswith(ELSEWHERE)]


@pytest.mark.thorough
@pytest.mark.timeout(1_800)
def test_every_command_of_the_tutorial_works(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / "tutorial", tmp_path / "examples" / "tutorial")
    for path in (tmp_path / "examples" / "tutorial").iterdir():
        text = path.read_text()
        path.write_text(text.replace("localhost:9092", kafka_broker.bootstrap_servers))
    (tmp_path / ".venv-trainer").symlink_to(ROOT / ".venv-trainer")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    told = commands(ROOT / "docs" / "tutorial.md")
    assert len(told) >= 9
    said = ""
    for command in told:
        done = subprocess.run(
            command.replace("localhost:9092", kafka_broker.bootstrap_servers),
            shell=True,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        said = done.stdout
    assert said.startswith("request r")
    assert "P(click)" in said
