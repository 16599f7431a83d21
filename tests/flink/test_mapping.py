"""The job on the mini-cluster over mapped records, against rows written by hand, and its audit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.flink import running
from tests.unit.test_mapping_schemas import FOLDER, truth


@pytest.mark.thorough
def test_the_job_joins_mapped_records_and_the_audit_closes(tmp_path: Path) -> None:
    """Impressions as records, conversions that are foretold, records that are there twice."""
    folder = tmp_path / "criteo"
    shutil.copytree(FOLDER / "criteo", folder)
    output = tmp_path / "out"
    running.join(folder / "pipeline.toml", output)
    rows = sorted(running.rows(output, "samples"), key=lambda r: (r["event_time"], r["request_id"]))
    expected = truth("criteo", "expected")
    assert [{n: row[n] for n in of} for row, of in zip(rows, expected, strict=True)] == expected
    lines = (folder / "log" / "sample.jsonl").read_bytes().splitlines()
    rejected = sorted(
        (r["stream"], r["reason"], r["raw"]) for r in running.rows(output, "rejected")
    )
    assert rejected == sorted(
        (row["stream"], row["reason"], lines[row["line"] - 1])
        for row in truth("criteo", "rejected")
    )
    audit = ["--config", str(folder / "pipeline.toml"), f"--set=output.path={output}"]
    done = running.run_module("tools.audit", *audit)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every record is accounted for." in done.stdout
