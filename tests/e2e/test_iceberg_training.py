"""A model trained from the Iceberg table of a job is the one that is trained from the files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas import generations
from schemas.generations import hour_of
from services.waiting import wait_until
from tests.flink import running

PYTHON = running.ROOT / ".venv-trainer" / "bin" / "python"
DEADLINE_S = 240
OVERRIDES = ("output.table=iceberg", "runtime.checkpoint_interval=300ms")

#: Prints a digest of all parameters of the last checkpoint, how many samples they are from, and the
#: files in their order.
DIGEST = """
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


#: Prints the files of the current snapshot.
FILES = """
import sys
from pathlib import Path
from trainer.reading.iceberg_table import Tables
print(*sorted(Tables().look(Path(sys.argv[1])).files))
"""


def told(code: str, *arguments: Path) -> list[str]:
    """What code prints in the trainer's environment, in words."""
    done = subprocess.run(
        [PYTHON, "-c", code, *arguments],
        cwd=running.ROOT,
        env=os.environ | {"PYTHONPATH": str(running.ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joined")
    made = running.run_module(
        "tools.generate", "--out", str(folder), "--requests", "1500", "--hours", "3"
    )
    assert made.returncode == 0, made.stderr
    running.join(folder / "pipeline.toml", folder / "out", *OVERRIDES)
    return folder


def trainer(folder: Path, table: str, *settings: str) -> subprocess.Popen[bytes]:
    said = (f"samples.table={table}", f"output.path={folder / table}", *settings)
    config = folder / "trainer.toml"
    config.write_text(
        '[samples]\npipeline = "pipeline.toml"\npath = "out"\n[train]\nbatch = 16\n'
        '[output]\npath = "model"\ncheckpoint_every = "200ms"\n[evaluation]\nevery = "1h"\n'
    )
    with (folder / f"{table}.log").open("ab") as log:
        return subprocess.Popen(
            [
                *(PYTHON, "-m", "trainer.train", "--config", config),
                *(f"--set={one}" for one in said),
            ],
            cwd=running.ROOT,
            stdout=log,
            stderr=log,
        )


def digest(folder: Path, table: str) -> list[str]:
    return told(DIGEST, folder / table / "checkpoints")


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.skipif(not PYTHON.exists(), reason="run `make setup-trainer` first")
def test_a_killed_trainer_has_the_same_parameters_from_the_table(joined: Path) -> None:
    listed = trainer(joined, "files")
    killed = trainer(joined, "iceberg")
    checkpoints = joined / "iceberg" / "checkpoints"
    end = time.monotonic() + DEADLINE_S
    while not list(checkpoints.glob("step-*")) and killed.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert killed.poll() is None, (joined / "iceberg.log").read_text()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert listed.wait(DEADLINE_S) == 0, (joined / "files.log").read_text()
    assert trainer(joined, "iceberg").wait(DEADLINE_S) == 0, (joined / "iceberg.log").read_text()
    assert "resumed from" in (joined / "iceberg.log").read_text()
    expected = digest(joined, "files")
    assert int(expected[1]) > 10_000
    found = digest(joined, "iceberg")
    assert found[2:] == expected[2:]
    assert found == expected


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.skipif(not PYTHON.exists(), reason="run `make setup-trainer` first")
def test_a_backfill_replaces_its_hours_in_the_table_at_once(joined: Path) -> None:
    """Killed between its pointer and the table's snapshot, it goes on."""
    output = joined / "out"
    old = sorted(told(FILES, output))
    hours = sorted({hour_of("/".join(file.split("/")[-3:-1])) or "" for file in old})
    words = ["--config", str(joined / "pipeline.toml"), "--set", f"output.path={output}"]
    words += [word for override in OVERRIDES for word in ("--set", override)]
    words += ["--from", hours[0], "--to", hours[2]]
    killed = subprocess.Popen([sys.executable, "-m", "jobs.backfill", *words], cwd=running.ROOT)
    wait_until((output / generations.POINTER).exists, DEADLINE_S, "the pointer", every_s=0.01)
    killed.kill()
    killed.wait()
    new = sorted(str(file.relative_to(output)) for file in generations.files(output, "samples"))
    assert set(new) - set(old)
    assert told(FILES, output) in (old, new)
    done = running.run_module("jobs.backfill", *words)
    assert done.returncode == 0, done.stdout
    assert told(FILES, output) == new
