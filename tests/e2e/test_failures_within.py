"""Failures between two chunks of files: every row once, and no other.

Flink's table source for files forgot its position with every restore; and with two subtasks it ran
ahead of the reader, so that no checkpoint was complete before most of the chunks were read.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_kills import check, story
from tests.e2e.test_time import hours
from tests.flink import running

#: A failure is gone on from at once, within the job.
RESTARTS = """
[flink]
"restart-strategy.type" = "fixed-delay"
"restart-strategy.fixed-delay.attempts" = "20"
"restart-strategy.fixed-delay.delay" = "1 ms"
"""


def run(folder: Path, where: str, times: int, *how: str) -> int:
    """The exit code of a job that has failed so often; see `failing_job`."""
    config = folder / "pipeline.toml"
    if RESTARTS not in config.read_text():
        config.write_text(config.read_text() + RESTARTS)
    arguments = (where, str(times), str(config), *how)
    done = running.run_module("tests.e2e.failing_job", *arguments)
    failures = len(list((folder / "pipeline.failures").iterdir()))
    assert failures == times, done.stdout + done.stderr
    return done.returncode


@pytest.mark.thorough
@pytest.mark.parametrize(("parallelism", "readers"), [(1, 1), (2, 1), (2, 3)])
def test_a_reader_that_is_restored_several_times(
    tmp_path: Path, parallelism: int, readers: int
) -> None:
    """Twice within the job, then by a job that goes on after the Java process was killed, and
    within that one twice again; of several readers, one fewer and another parallelism go on.
    """
    due = story(tmp_path, hours(6), compact=False, parallelism=parallelism, interval="50ms")
    several = f"--set=runtime.file_readers={readers}"
    assert run(tmp_path, "by-a-kill", 3, several) == 1
    check(tmp_path, due, whole=False)
    others = [] if readers == 1 else ["--set=runtime.file_readers=2", "--set=runtime.parallelism=1"]
    assert run(tmp_path, "between-chunks", 2, "--restore", "latest", several, *others) == 0
    check(tmp_path, due, whole=True)
