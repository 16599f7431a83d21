"""The job on the mini-cluster over several sources of files, against the oracle, and its audit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests import oracle
from tests.flink import running
from tests.timeline import Rules, Timeline
from tests.unit.test_several_sources import FILES, HEAD, MAPPED, T, events, spread, written


@pytest.mark.thorough
def test_the_job_joins_several_sources_and_the_audit_closes(tmp_path: Path) -> None:
    requests, actions = events(random.Random(5))
    spread(tmp_path, requests, actions)
    with (tmp_path / "actions.orders" / "log.jsonl").open("a") as log:
        log.write("{broken\n")
    config, output = written(tmp_path, HEAD + FILES + MAPPED), tmp_path / "out"
    running.join(config, output)
    windows = {"click": 10_000, "purchase": 60_000}
    rules = Rules("request_id", windows, {"click": "count", "purchase": "sum"})
    truth = oracle.expected(Timeline((*requests, *actions), T + 3_600_000), rules)
    rows = {
        (row["request_id"], row["position"]): (row["label_click"], row["label_purchase"])
        for row in running.rows(output, "samples")
        if not row["request_id"].startswith("far")
    }
    assert rows == {
        (row.request_id, row.position): (row.labels["click"], row.labels["purchase"])
        for row in truth.rows
    }
    (bad,) = (r for r in running.rows(output, "rejected") if r["reason"] == "broken_json")
    assert (bad["stream"], Path(bad["origin"]).parent.name) == ("actions", "actions.orders")
    audit = running.run_module("tools.audit", "--config", str(config))
    assert audit.returncode == 0, audit.stdout + audit.stderr
