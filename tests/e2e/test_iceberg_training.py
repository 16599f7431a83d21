"""A model trained from the Iceberg table of a job is the one that is trained from the files."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas import generations
from schemas.generations import hour_of
from services.waiting import wait_until
from tests.e2e import trained
from tests.e2e.trained import DEADLINE_S, digest, started, told
from tests.flink import running

OVERRIDES = ("output.table=iceberg", "runtime.checkpoint_interval=300ms")

#: Prints the files of the current snapshot.
FILES = """
import sys
from pathlib import Path
from trainer.reading.iceberg_table import Tables
print(*sorted(Tables().look(Path(sys.argv[1])).files))
"""


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joined")
    made = running.run_module(
        "tools.generate", "--out", str(folder), "--requests", "1500", "--hours", "3"
    )
    assert made.returncode == 0, made.stderr
    running.join(folder / "pipeline.toml", folder / "out", *OVERRIDES)
    return folder


def trainer(folder: Path, table: str) -> subprocess.Popen[bytes]:
    return started(folder, table, f"samples.table={table}", f"output.path={folder / table}")


@pytest.mark.thorough
@pytest.mark.timeout(600)
@trained.needed
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
    expected = digest(joined / "files" / "checkpoints")
    assert int(expected[1]) > 10_000
    found = digest(joined / "iceberg" / "checkpoints")
    assert found[2:] == expected[2:]
    assert found == expected


@pytest.mark.thorough
@pytest.mark.timeout(600)
@trained.needed
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
