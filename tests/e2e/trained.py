"""The trainer in its own environment, beside a job of a test: run, and what it has learned."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.flink.running import ROOT

PYTHON = ROOT / ".venv-trainer" / "bin" / "python"
DEADLINE_S = 240
needed = pytest.mark.skipif(not PYTHON.exists(), reason="run `make setup-trainer` first")

#: Prints a digest of all parameters of the last checkpoint, how many samples they are from, and the
#: files in their order.
_DIGEST = """
import hashlib, sys
from pathlib import Path
from tests.trainer.runs import one
from trainer import checkpoint
last = checkpoint.find(Path(sys.argv[1]))[-1]
manifest = checkpoint.read_manifest(last)
parts = one(checkpoint.read_shards(last, manifest))
tables = [[rows.keys, rows.touched, *rows.states] for rows in parts.tables]
learned = [array.tobytes() for arrays in (*tables, parts.dense) for array in arrays]
files = [entry["path"] for entry in manifest.session["entries"]]
print(hashlib.sha256(repr(learned).encode()).hexdigest(), manifest.session["rows"], *files)
"""


def told(code: str, *arguments: Path) -> list[str]:
    """What code prints in the trainer's environment, in words."""
    done = subprocess.run(
        [PYTHON, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def digest(checkpoints: Path) -> list[str]:
    """Of the parameters, how many samples they are from, and from which files, in their order."""
    return told(_DIGEST, checkpoints)


def started(folder: Path, name: str, *settings: str) -> subprocess.Popen[bytes]:
    """A run on `folder/out`, which `folder/pipeline.toml` describes. It logs to `NAME.log`.

    `settings`: where it writes, and what else is not as in the file.
    """
    config = folder / "trainer.toml"
    config.write_text(
        '[samples]\npipeline = "pipeline.toml"\npath = "out"\n[train]\nbatch = 16\n'
        '[output]\npath = "model"\ncheckpoint_every = "200ms"\n[evaluation]\nevery = "1h"\n'
    )
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [
                *(PYTHON, "-m", "trainer.train", "--config", config),
                *(f"--set={one}" for one in settings),
            ],
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
