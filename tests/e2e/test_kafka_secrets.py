"""No secret of a job can be seen in Flink's web interface, in logs, or beside the output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests

from services.flink_cluster import FlinkCluster
from services.waiting import wait_until
from tests.e2e.cluster_job import Job
from tests.e2e.kafka_logins import (
    configuration,
    found_below,
    found_in,
    in_the_environment,
    over_tls,
    presenting,
    scram,
    tls,
    trusting,
)
from tests.e2e.secured import SecuredBroker
from tests.e2e.secured_topics import REQUESTS, TOPICS
from tests.flink import running

UNBOUNDED = 'start = "earliest"\nidle_timeout = "1h"\nout_of_orderness = "1s"'
#: Beside Kafka's: an option of Flink's own, under a name whose value Flink does not hide by itself.
FLINK = {"S3_ACCESS": "Hs6AccessToTheStore"}


def pages(cluster: FlinkCluster, job: str) -> dict[str, str]:
    """What the web interface shows of a job and of the cluster, by path."""
    session = requests.Session()
    session.trust_env = False
    found: dict[str, str] = {}

    def page(path: str) -> Any:
        answer = session.get(cluster.rest_url + path, timeout=30)
        found[path] = answer.text
        # of a log that is empty it says JSON, too
        return json.loads(answer.text) if answer.text.startswith("{") else {}

    for path in ("/config", "/overview", "/jobs/overview", "/datasets", "/jars"):
        page(path)
    for path in ("config", "environment", "log", "stdout", "metrics", "thread-dump"):
        page(f"/jobmanager/{path}")
    for log in page("/jobmanager/logs")["logs"]:
        page(f"/jobmanager/logs/{log['name']}")
    for manager in page("/taskmanagers")["taskmanagers"]:
        root = f"/taskmanagers/{manager['id']}"
        for path in ("", "/log", "/stdout", "/metrics", "/thread-dump"):
            page(root + path)
        for log in page(f"{root}/logs")["logs"]:
            page(f"{root}/logs/{log['name']}")
    root = f"/jobs/{job}"
    for path in ("config", "plan", "exceptions", "accumulators", "metrics", "status"):
        page(f"{root}/{path}")
    for path in ("checkpoints", "checkpoints/config", "jobmanager/config"):
        page(f"{root}/{path}")
    for path in ("jobmanager/environment", "jobmanager/log-url", "execution-result"):
        page(f"{root}/{path}")
    for vertex in page(root)["vertices"]:
        for path in ("", "/accumulators", "/metrics", "/subtasks/accumulators", "/taskmanagers"):
            page(f"{root}/vertices/{vertex['id']}{path}")
    return found


def submitted(cluster: FlinkCluster, config: Path) -> tuple[Job, str]:
    """A job, and what its submission said."""
    with config.open("a") as text:
        text.write('[runtime]\ncheckpoint_interval = "1s"\n')
        text.write('[flink]\n"s3.access-key" = "${S3_ACCESS}"\n')
    script = running.ROOT / "jobs" / "join_samples.py"
    submission = cluster.run(script, ["--config", str(config)])
    return Job(cluster, submission.job_id), submission.output


@pytest.mark.thorough
@pytest.mark.parametrize("fails", [False, True])
def test_no_secret_is_shown_by_the_cluster_or_lies_beside_the_output(
    secured_topics: SecuredBroker,
    flink_cluster: FlinkCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
) -> None:
    """Of a job that runs, and of one that fails: with a wrong password."""
    broker = secured_topics
    features = trusting(over_tls(scram()), broker.authority.certificate)
    actions = in_the_environment(broker)
    if fails:
        features = trusting(over_tls(scram(word="Zw4WrongBattery")), broker.authority.java)
        actions = presenting(trusting(tls("MUTUAL"), broker.authority.java), broker.client.plain)
    secrets = {**features.secrets, **actions.secrets, **FLINK}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    config = configuration(broker, tmp_path, TOPICS, features, actions, keys=UNBOUNDED)
    job, said = submitted(flink_cluster, config)

    def is_there() -> bool:
        if fails:
            return "invalid credentials" in flink_cluster.job_exception(job.id)
        return job.goes_on() and len(running.rows(tmp_path / "out", "samples")) > REQUESTS // 2

    try:
        wait_until(is_there, 90, "its rows, or its exception", every_s=0.5)
        shown = pages(flink_cluster, job.id)
    finally:
        flink_cluster.cancel(job.id)
    assert len(shown) > 40
    assert "decode features" in shown[f"/jobs/{job.id}/plan"]
    assert {path: found_in(secrets, text) for path, text in shown.items()} == {
        path: [] for path in shown
    }
    assert found_in(secrets, said) == []
    assert (tmp_path / "out" / "_runs.jsonl").exists()
    assert (tmp_path / "out" / "_pipeline.toml").exists()
    assert found_below(secrets, tmp_path) == []
    assert found_below(secrets, flink_cluster.log_folder) == []
    explained = running.run_module("jobs.join_samples", "--config", str(config), "--explain")
    assert explained.returncode == 0, explained.stderr
    assert found_in(secrets, explained.stdout + explained.stderr) == []
