"""An operator at the local cluster: list, savepoint, stop, go on, drain and cancel, as commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from services import flink_cluster as commands
from services.flink_cluster import FlinkCluster
from services.kafka_broker import KafkaBroker
from services.waiting import wait_until
from tests.e2e.kafka_story import KafkaStory
from tests.flink import running

RULES = """
[join]
key = "request_id"
[actions.click]
window = "10s"
"""
SCRIPT = running.ROOT / "jobs" / "join_samples.py"


@pytest.mark.thorough
def test_a_job_is_listed_stopped_gone_on_with_drained_and_cancelled(
    kafka_broker: KafkaBroker,
    flink_cluster: FlinkCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(commands, "_attached", lambda: flink_cluster)
    folder = tmp_path / "a folder, #1 of 100%"
    folder.mkdir()
    story = KafkaStory(kafka_broker, folder, "commands", RULES)
    story.create_topics()

    def command(*arguments: str) -> str:
        code = commands.main(arguments)
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    def submitted(*arguments: str) -> str:
        name = "pipeline.name=the commands' job"
        out = command(
            *("run", "--set", "execution.checkpointing.interval=2 s", str(SCRIPT)),
            *("--config", str(story.config), "--set", name, *arguments),
        )
        (line,) = [line for line in out.splitlines() if line.startswith("submitted as job ")]
        return line.removeprefix("submitted as job ")

    def rows(number: int) -> None:
        wait_until(lambda: len(story.rows()) >= number, 120, f"{number} rows", every_s=0.25)

    story.clicks(dict.fromkeys(range(0, 30, 2), 5))
    story.requests(range(30))
    job = submitted()
    assert flink_cluster.get(f"/jobs/{job}")["name"] == "the commands' job"
    rows(18)
    listed = command("list")
    assert f"{job}  RUNNING" in listed
    assert str(folder / "checkpoints" / job) in listed

    # a savepoint of a job that goes on, somewhere else; then one with which it stops
    place = command("savepoint", job[:8], "--folder", str(folder / "kept here"))
    assert "kept here" in place
    stopped = command("stop", job).split("--restore ")[1].strip()
    assert stopped.startswith(f"file:{folder}/checkpoints/savepoint-")
    assert f"{job}  FINISHED" in command("list")

    story.clicks(dict.fromkeys(range(30, 60, 2), 5))
    story.requests(range(30, 60))
    job = submitted("--restore", stopped)
    rows(48)
    assert f"drained {job}" in command("drain", job)
    # the last ones too, which no watermark had settled
    assert {i: row["label_click"] for i, row in story.rows().items()} == {
        i: int(i % 2 == 0) for i in range(60)
    }

    job = submitted("--overwrite")
    rows(48)
    said = command("cancel", job)
    assert f"cancelled {job}; its last checkpoint: " in said
    assert f"{job}  CANCELED" in command("list")
