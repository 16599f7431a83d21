"""The one reader of files is restored several times, between chunks, and reads no chunk twice.

Flink's table source for files forgot its position with every restore; and with two subtasks it ran
ahead of the reader, so that no checkpoint was complete before most of the chunks were read.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_kills import check, story
from tests.flink import running

#: A failure is gone on from at once, within the job.
RESTARTS = """
[flink]
"restart-strategy.type" = "fixed-delay"
"restart-strategy.fixed-delay.attempts" = "10"
"restart-strategy.fixed-delay.delay" = "1 ms"
"""


@pytest.mark.thorough
@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_reader_that_is_restored_several_times(tmp_path: Path, parallelism: int) -> None:
    """Twice within the job, then by a job that goes on after the Java process was killed, and
    within that one twice again.
    """
    due = story(tmp_path, 6, compact=False, parallelism=parallelism, interval="50ms")
    config = tmp_path / "pipeline.toml"
    config.write_text(config.read_text() + RESTARTS)

    def run(times: int, kill: bool, *how: str) -> int:
        arguments = (str(times), str(int(kill)), str(config), *how)
        done = running.run_module("tests.e2e.failing_job", *arguments)
        told = config.with_suffix(".failures").read_text().count("failed")
        assert told == times, done.stdout + done.stderr
        return done.returncode

    assert run(3, True) == 1
    check(tmp_path, due, whole=False)
    assert run(2, False, "--restore", "latest") == 0
    check(tmp_path, due, whole=True)
