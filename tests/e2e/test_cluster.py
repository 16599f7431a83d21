"""The same module, submitted with `flink run -py` to a session cluster of two task managers."""

from __future__ import annotations

from pathlib import Path

import pytest

from services import flink_cluster as commands
from services.flink_cluster import ClusterError, FlinkCluster
from tests import by_hand
from tests.e2e import by_hand_rows
from tests.flink import running


def test_submitted_job_at_parallelism_two(
    flink_cluster: FlinkCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fixture = by_hand.load("request_id")
    output = tmp_path / "out"
    submission = flink_cluster.run(
        running.ROOT / "jobs" / "join_samples.py",
        ["--config", str(fixture.folder / "pipeline.toml"), "--set", f"output.path={output}"],
        parallelism=2,
    )
    flink_cluster.wait_for_job(submission.job_id, "FINISHED", 180)

    by_hand_rows.check(output, fixture)

    # not a second time; a URI is looked at with Flink's own file systems
    with pytest.raises(ClusterError, match=r"has rows already \(in samples/\)"):
        flink_cluster.run(
            running.ROOT / "jobs" / "join_samples.py",
            [f"--config={fixture.folder}/pipeline.toml", f"--set=output.path=file://{output}"],
        )

    # the job is over, and what it counted can still be asked for
    monkeypatch.setattr(commands, "_attached", lambda: flink_cluster)
    assert commands.main(["counts", submission.job_id[:8]]) == 0
    counts = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert int(counts["rows/final"]) == len(fixture.samples)
    late = sum(r["reason"] == "late_request" for r in fixture.rejected)
    assert int(counts["rejected/features/late_request"]) == late
    assert commands.main(["list"]) == 0
    assert f"{submission.job_id}  FINISHED" in capsys.readouterr().out
    for command in ("stop", "drain", "savepoint", "cancel"):
        assert commands.main([command, submission.job_id]) == 1
        assert "no running job" in capsys.readouterr().err
