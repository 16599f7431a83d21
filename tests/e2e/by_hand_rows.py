"""Whether a cluster's output is the truth of a set that was written by hand."""

from __future__ import annotations

from pathlib import Path

from tests.by_hand import ByHand
from tests.flink import running


def check(output: Path, truth: ByHand) -> None:
    """Asserts that each table has the rows of the truth, and no others."""
    rows = {(r["request_id"], r["position"]): r for r in running.rows(output, "samples")}
    samples = {(r["request_id"], r["position"]): r for r in truth.samples}
    assert rows.keys() == samples.keys()
    for name, expected in samples.items():
        assert {k: rows[name][k] for k in expected} == expected
    # one reader feeds all subtasks in order, so even what came too late is the same
    assert len(running.rows(output, "late_actions")) == len(truth.late)
    reasons = sorted(r["reason"] for r in running.rows(output, "rejected"))
    assert reasons == sorted(r["reason"] for r in truth.rejected)
