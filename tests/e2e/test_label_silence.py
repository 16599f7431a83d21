"""A silent action stream does not turn requests into negatives (docs/join-semantics.md 10).

A real broker and a real cluster. A request a second, each with a click at once; then the clicks
stop, in one partition first, then in all; the job is stopped in the middle and restored at
parallelism 2; then the clicks that were held up come, in one partition.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from services.flink_cluster import FlinkCluster
from services.kafka_broker import KafkaBroker
from services.waiting import wait_until
from tests.e2e.cluster_job import Job
from tests.e2e.kafka_story import SECOND, START, KafkaStory
from tests.flink import running

WINDOW, SILENCE, BOUND = 10, 20, 1

RULES = """
[actions.click]
window = "10s"
[label_silence]
after = "20s"
"""


@pytest.mark.thorough
def test_labels_are_held_until_actions_flow_again(
    kafka_broker: KafkaBroker, flink_cluster: FlinkCluster, tmp_path: Path
) -> None:
    story = KafkaStory(kafka_broker, tmp_path, "silence", RULES)
    story.create_topics(feature_partitions=2, action_partitions=2)
    program = running.ROOT / "jobs" / "join_samples.py"
    arguments = ["--config", str(story.config)]

    story.requests(range(60))
    story.clicks(dict.fromkeys(range(60), 0))
    submission = flink_cluster.run(program, arguments, parallelism=1)
    job = Job(flink_cluster, submission.job_id)
    wait_for(story, job, settled_by(59))

    # one partition of the actions quiet: nothing is held
    story.clicks(dict.fromkeys(range(60, 80), 0), partition=1)
    job.wait_until_read("actions", 80)  # or they would come late, the stream being idle
    story.requests(range(60, 80))
    wait_for(story, job, settled_by(79))
    assert {row["label_click"] for row in story.rows().values()} == {1}

    # the whole stream silent; its last time was 79 s
    story.requests(range(80, 160))
    held_at = 79 + SILENCE - WINDOW
    wait_for(story, job, held_at)
    job.wait_until_read("features", 160)
    assert job.metric("keep time", "label_silence_holds") == 1

    pending = 160 - (held_at + 1)
    assert job.metric("join", "pending_requests") == pending

    # both streams quiet, and a restart: the hold stands, in both subtasks
    savepoint = flink_cluster.stop_job(job.id, tmp_path / "savepoints")
    submission = flink_cluster.run(program, arguments, parallelism=2, savepoint=savepoint)
    job = Job(flink_cluster, submission.job_id)
    wait_until(lambda: job.goes_on() and held_messages(flink_cluster) == 2, 60, "a hold")
    held = [79 * SECOND + SILENCE * SECOND + START] * 2
    wait_until(
        lambda: job.metrics("keep time", "join.currentOutputWatermark") == held,
        60,
        "the watermark of before in both subtasks",
    )
    waiting = job.metrics("join", "pending_requests")
    assert sum(waiting) == pending
    assert min(waiting) > 0  # in both
    story.requests(range(160, 170))
    job.wait_until_read("features", 10)
    assert max(story.rows()) == held_at

    # what was held up comes, in one partition
    story.clicks(dict.fromkeys(range(80, 170), 0), partition=1)
    wait_for(story, job, settled_by(169))
    negatives = sorted(i for i, row in story.rows().items() if row["label_click"] == 0)
    # settled within T of the last action: that is what T says
    assert negatives == list(range(80, held_at + 1))
    assert held_messages(flink_cluster) == 2  # still one a run
    flink_cluster.cancel(job.id)


def settled_by(latest: int) -> int:
    """The last request whose deadline the watermark reaches when one partition of the features ends
    with request `latest` and the other with the one before; it is 1 ms short of the bound.
    """
    return latest - 1 - BOUND - WINDOW - 1


def wait_for(story: KafkaStory, job: Job, last: int) -> None:
    """Until the rows of requests 0 to `last`, and no others, are visible."""
    wait_until(
        lambda: job.goes_on() and len(story.rows()) > last, 90, f"{last + 1} rows", every_s=0.25
    )
    assert sorted(story.rows()) == list(range(last + 1))


def held_messages(cluster: FlinkCluster) -> int:
    """How often the log says that labels are held."""
    logs = cluster.log_folder.glob("*.log")
    return sum(log.read_text(errors="replace").count("labels are held") for log in logs)
