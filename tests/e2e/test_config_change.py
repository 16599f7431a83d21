"""A configuration changes over a savepoint (docs/configuration.md).

Windows, lateness, policy, sampling and the feature schema are others afterwards. What was accepted
before keeps its own deadline, and gets what it did not have as null. Files are compacted, those of
the old schema and those of the new one apart.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from services.flink_cluster import FlinkCluster
from services.kafka_broker import KafkaBroker
from services.waiting import wait_until
from tests.e2e.cluster_job import Job
from tests.e2e.kafka_story import SECOND, KafkaStory
from tests.flink import running

pytestmark = pytest.mark.thorough

RULES = """
[actions.click]
window = "10s"
[features.price]
type = "float64"
"""

CHANGED = (
    "actions.click.window=20s",
    "join.allowed_lateness=5s",
    "join.policy=es_dfm",
    "emission.first_emit_after=4s",
    "sampling.rate=0.0",
    "features.color={type = 'string', required = false}",
)


def test_old_requests_keep_their_deadline_under_a_new_configuration(
    kafka_broker: KafkaBroker, flink_cluster: FlinkCluster, tmp_path: Path
) -> None:
    story = KafkaStory(kafka_broker, tmp_path, "changed", RULES)
    story.create_topics()
    program = running.ROOT / "jobs" / "join_samples.py"
    config = ["--config", str(story.config), "--set=output.compact=true"]

    # each even request has a click after 5 s
    story.clicks(dict.fromkeys(range(0, 30, 2), 5))
    story.requests(range(30), {"price": 1.0})
    job = Job(flink_cluster, flink_cluster.run(program, config).job_id)
    # D_r = t_r + 10 s, and the time is 29 s less 1.001 s
    wait_until(lambda: job.goes_on() and len(story.rows()) >= 18, 90, "18 rows", every_s=0.25)
    assert sorted(story.rows()) == list(range(18))
    savepoint = flink_cluster.stop_job(job.id, tmp_path / "savepoints")

    # each fourth has one after 15 s: in the new window, and past the deadline of an old request
    story.clicks(dict.fromkeys(range(30, 80, 2), 5) | dict.fromkeys(range(21, 80, 4), 15))
    story.requests(range(30, 80), {"price": 2.0, "color": "red"})
    story.requests([200], {"price": 2.0, "color": "red"})
    changes = [f"--set={change}" for change in CHANGED]
    submission = flink_cluster.run(program, config + changes, savepoint=savepoint)
    job = Job(flink_cluster, submission.job_id)
    positives = {*range(18, 80, 2), *range(33, 80, 4)}
    expected = {*range(18), *positives}
    wait_until(
        lambda: job.goes_on() and len(story.rows()) >= len(expected), 90, "all rows", every_s=0.25
    )
    job.wait_for_checkpoints(2)
    rows, late = story.rows(), story.rows("late_actions")
    flink_cluster.cancel(job.id)

    assert set(rows) == expected
    for i, row in rows.items():
        assert row["label_click"] == int(i in positives or i % 2 == 0)
        made: tuple[str, int, int, str | None]
        if i < 30:
            # settled whole, at t_r + 10 s, though the window is 20 s now; no colour
            made = ("final", 0, 10 * SECOND, None)
        else:
            # its negative version, after 4 s, was sampled out
            after = 5 if i % 2 == 0 else 15
            made = ("positive", 1, after * SECOND, "red")
        assert (row["kind"], row["revision"], row["observed_ms"], row["color"]) == made
        # a longer window than the row was observed for
        assert row["mature_click"] == (i < 18)
        assert row["price"] == (1.0 if i < 30 else 2.0)
    assert {i: row["reason"] for i, row in late.items()} == dict.fromkeys(
        (21, 25, 29), "after_settle"
    )
