"""Local runs: never twice into one output, stopped by a signal, gone on with, counted."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from services.kafka_broker import KafkaBroker
from services.waiting import wait_until
from tests import by_hand
from tests.e2e.kafka_story import KafkaStory
from tests.e2e.local_job import started
from tests.flink import running

RULES = """
[actions.click]
window = "10s"
"""
#: Refusals come before Flink is started.
AT_ONCE_S = 60


def stopped(process: subprocess.Popen[bytes], log: Path, number: signal.Signals) -> list[str]:
    """The command that goes on, as the job prints it when a signal has stopped it."""
    process.send_signal(number)
    assert process.wait(timeout=180) == 128 + number, log.read_text()
    found = re.search(r"go on with\n +\S+ -m jobs\.join_samples (.*)", log.read_text())
    assert found is not None, log.read_text()
    return shlex.split(found[1])


def refused(*arguments: str) -> str:
    """The one line of a run that was refused."""
    done = running.run_module("jobs.join_samples", *arguments, deadline_s=AT_ONCE_S)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def test_an_unbounded_run_is_stopped_gone_on_with_and_never_doubled(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    story = KafkaStory(kafka_broker, tmp_path, "local", RULES)
    story.create_topics()
    config = ["--config", str(story.config)]
    story.clicks(dict.fromkeys(range(0, 30, 2), 5))
    story.requests(range(30))
    log = tmp_path / "first.log"
    with started(config, log) as job:

        def rows(number: int) -> bool:
            assert job.poll() is None, log.read_text()
            return len(story.rows()) >= number

        # D_r = t_r + 10 s, and the time is 29 s less 1.001 s
        wait_until(lambda: rows(18), 150, "18 rows", every_s=0.25)
        assert f"process {job.pid} on" in refused(*config, "--append")
        again = stopped(job, log, signal.SIGTERM)
    # what was counted up to the stop is shown, as at an end
    counted = [re.split(r"  +", line.strip()) for line in log.read_text().splitlines()]
    assert ["requests", "read", "30"] in counted
    assert again[:3] == [*config, "--restore"]
    assert Path(again[3]).is_relative_to(tmp_path / "checkpoints")
    assert "has rows already" in refused(*config)

    # half-written, and newer than all others: it is not taken
    half = Path(again[3]).parent / "savepoint-000000-half"
    half.mkdir()
    (half / "_metadata").write_bytes(b"")
    story.clicks(dict.fromkeys(range(30, 60, 2), 5))
    story.requests([*range(30, 60), 200])
    log = tmp_path / "second.log"
    with started([*config, "--restore", "latest"], log) as job:
        wait_until(lambda: rows(60), 150, "60 rows", every_s=0.25)
    assert f"going on from {again[3]}" in log.read_text()
    found = story.rows()  # which must have one each
    assert {i: row["label_click"] for i, row in found.items()} == {
        i: int(i % 2 == 0) for i in range(60)
    }
    # going back to where the second run began would write its rows once more
    assert "became visible after this snapshot" in refused(*again)
    assert story.rows() == found


@pytest.mark.thorough
def test_a_bounded_run_that_rejects_everything_fails_and_is_not_repeated_unasked(
    tmp_path: Path,
) -> None:
    fixture = by_hand.load("request_id")
    output = tmp_path / "out"
    config = ["--config", str(fixture.folder / "pipeline.toml"), f"--set=output.path={output}"]
    misspelt = [*config, "--set=features.prise.type=float64"]
    done = running.run_module("jobs.join_samples", *misspelt)
    assert done.returncode == 3, done.stderr
    assert "every one of the 43 requests that were read was rejected" in done.stderr
    table = [re.split(r"  +", line.strip()) for line in done.stderr.splitlines()]
    assert ["requests", "read", "43"] in table
    assert ["accepted", "0"] in table
    assert "has rows already (in rejected/)" in refused(*config)

    # the configuration that it ran with lies beside the output; secrets and checkpoints do not
    written = (output / "_pipeline.toml").read_text()
    assert "[features.prise]" in written
    (run,) = (output / "_runs.jsonl").read_text().splitlines()
    assert json.loads(run)["start"] == "fresh"
    assert not (output / "_checkpoints").exists()

    # the same, corrected, over what is there
    done = running.run_module("jobs.join_samples", *config, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert len(running.rows(output, "samples")) == len(fixture.samples)
    assert len(running.rows(output, "rejected")) == len(fixture.rejected)


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_a_bounded_run_is_stopped_and_gone_on_with(tmp_path: Path) -> None:
    done = running.run_module(
        "tools.generate", "--out", str(tmp_path / "in"), "--requests", "40000"
    )
    assert done.returncode == 0, done.stderr
    config, output = tmp_path / "in" / "pipeline.toml", tmp_path / "out"
    whole = tmp_path / "whole"
    running.join(config, whole)
    log = tmp_path / "job.log"
    arguments = ["--config", str(config), "--set", f"output.path={output}"]
    with started(arguments, log) as job:
        # files that grow: it is in the middle of its work
        wait_until(
            lambda: job.poll() is not None or any((output / "samples").rglob(".part-*")),
            300,
            "the first rows",
        )
        assert job.poll() is None, log.read_text()
        again = stopped(job, log, signal.SIGINT)
    done = running.run_module("jobs.join_samples", *again, deadline_s=600)
    assert done.returncode == 0, done.stderr
    for table in ("samples", "late_actions", "rejected"):
        rows = [sorted(map(repr, running.rows(folder, table))) for folder in (output, whole)]
        assert rows[0] == rows[1], table
