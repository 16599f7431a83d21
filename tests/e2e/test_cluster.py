"""The same module, submitted with `flink run -py` to a session cluster of two task managers."""

from __future__ import annotations

from pathlib import Path

from services.flink_cluster import FlinkCluster
from tests import by_hand
from tests.flink import running


def test_submitted_job_at_parallelism_two(flink_cluster: FlinkCluster, tmp_path: Path) -> None:
    fixture = by_hand.load("request_id")
    output = tmp_path / "out"
    submission = flink_cluster.run(
        running.ROOT / "jobs" / "join_samples.py",
        ["--config", str(fixture.folder / "pipeline.toml"), "--set", f"output.path={output}"],
        parallelism=2,
    )
    flink_cluster.wait_for_job(submission.job_id, "FINISHED", 180)

    rows = {(r["request_id"], r["position"]): r for r in running.rows(output, "samples")}
    truth = {(r["request_id"], r["position"]): r for r in fixture.samples}
    assert rows.keys() == truth.keys()
    for name, expected in truth.items():
        assert {k: rows[name][k] for k in expected} == expected
    # one reader feeds both subtasks in order, so even what came too late is the same
    assert len(running.rows(output, "late_actions")) == len(fixture.late)
    reasons = sorted(r["reason"] for r in running.rows(output, "rejected"))
    assert reasons == sorted(r["reason"] for r in fixture.rejected)
