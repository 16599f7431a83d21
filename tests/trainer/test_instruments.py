"""The numbers by which a run is watched: what a scrape, a line of the log and evaluation/ have."""

from __future__ import annotations

import json
import logging
import re
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.trainer.data import Traffic, files, write
from services.waiting import wait_until
from tests.trainer import runs
from tests.trainer.processes import Trainer
from trainer.run.instruments import PREFIX, Instruments, Unsaved
from trainer.run.job import Outcome, Task
from trainer.run.session import Session
from trainer.train import main

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docker/prometheus/trainer-alerts.yml"
DASHBOARD = ROOT / "docker/grafana/trainer.json"
PAGE = ROOT / "docs/trainer.md"
ROWS, BATCH = 8_192, 256

Scrape = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("samples")
    write(Traffic(rows=ROWS, files=2, hours=2, users=200, catalogue=100), root)
    return root


def scraped(port: int) -> Scrape:
    """All samples at an endpoint, by name and labels."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def port_of(trainer: Trainer) -> int:
    pattern = r"metrics are on http://127\.0\.0\.1:(\d+)/metrics"
    found = wait_until(lambda: re.search(pattern, trainer.said()), 120, "the endpoint")
    return int(found[1])


def mentioned(text: str) -> set[str]:
    """Names of the trainer's metrics in a text, as a scrape has them."""
    return set(re.findall(rf"{PREFIX}_[a-z_]+", text))


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_a_run_with_servers_is_scraped_before_and_after_one_is_killed(
    folder: Path, tmp_path: Path, trainers: list[Trainer]
) -> None:
    settings = (
        *("metrics.port=0", "log.every=1s", "log.format=json", "evaluation.every=1s"),
        *("train.workers=2", "output.export_every=1s"),
    )
    trainer = Trainer(folder, tmp_path / "model", {}, *settings)
    trainers.append(trainer)
    port = port_of(trainer)

    def value(name: str, **labels: str) -> float:
        return scraped(port)[f"{PREFIX}_{name}", tuple(sorted(labels.items()))]

    def all_saved() -> bool:
        found = scraped(port)
        at = (f"{PREFIX}_samples_total", ()), (f"{PREFIX}_checkpoint_age_seconds", ())
        return found[at[0]] == ROWS and found[at[1]] == 0 == value("export_age_seconds")

    wait_until(all_saved, 120, "all samples to be learned and saved")
    wait_until(lambda: value("keys") > 0, 30, "the tables to be measured")
    found = scraped(port)
    assert value("batches_total") == ROWS / BATCH
    for phase in ("read", "pull", "compute", "push"):
        assert value("batch_seconds_count", phase=phase) == ROWS / BATCH
        assert value("batch_seconds_sum", phase=phase) > 0
    assert value("pending_samples") == 0 == value("lag_seconds")
    assert value("parameter_bytes") > value("keys")
    assert value("checkpoint_seconds_count") >= 1 <= value("export_seconds_count")
    assert value("processes", role="server") == 2 == value("processes", role="worker")
    assert value("shards_without_backup") == 0

    # it says the same as the evaluation that it writes while it follows
    table = tmp_path / "model/evaluation/metrics.parquet"
    wait_until(table.exists, 60, "the evaluation")
    assert (tmp_path / "model/evaluation/report.html").exists()

    def rows() -> list[dict[str, Any]]:
        every: list[dict[str, Any]] = pq.read_table(table).to_pylist()
        return [row for row in every if row["slice"] == "all"]

    wait_until(lambda: sum(row["rows"] for row in rows()) >= ROWS, 60, "the evaluation of all")
    for action in {row["action"] for row in rows()}:
        mine = [row for row in rows() if row["action"] == action]
        weight = sum(row["weight"] for row in mine)
        assert value("evaluated_samples_total", action=action) == pytest.approx(weight)
        loss = sum(row["weight"] * row["log_loss"] for row in mine)
        assert value("log_loss_nats_total", action=action) == pytest.approx(loss)
        predicted = sum(row["weight"] * row["prediction"] for row in mine)
        assert value("predictions_total", action=action) == pytest.approx(predicted)
        positive = sum(row["weight"] * row["ctr"] for row in mine)
        assert value("positives_total", action=action) == pytest.approx(positive)

    # all that the page, the dashboard and the alerts name is there
    names = {name for name, _ in found}
    families = {re.sub(r"_(total|bucket|count|sum|created)$", "", name) for name in names}
    for file in (PAGE, DASHBOARD, RULES):
        unknown = mentioned(file.read_text()) - names - families
        assert not unknown, f"{file.name}: {unknown}"
    ours = {name for name in families if name.startswith(PREFIX)}
    page = {re.sub(r"_total$", "", name) for name in mentioned(PAGE.read_text())}
    assert ours - page == set(), "not documented"

    # a server is killed: its backup goes on, which shows
    victim = next(p for p in trainer.family() if "_ServerActor.serve" in " ".join(p.cmdline()))
    victim.kill()
    wait_until(lambda: value("failovers_total", role="server") == 1, 60, "the end of a server")
    wait_until(lambda: value("processes", role="server") == 2, 120, "another server")
    assert value("failovers_total", role="worker") == 0 == value("rollbacks_total")

    lines = [json.loads(line) for line in trainer.said().splitlines() if line.startswith("{")]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert {"status", "checkpoint"} <= {line.get("event") for line in lines}
    assert any(line["level"] == "warning" and "server" in line["message"] for line in lines)
    last = [line for line in lines if line.get("event") == "status"][-1]
    assert last["samples"] == ROWS
    assert last["pending_samples"] == 0
    assert set(last) >= {"samples_per_second", "lag_seconds", "keys", "checkpoint_age_seconds"}
    status = [line for line in lines if line.get("event") == "status"]
    assert any(line["log_loss"] and line["calibration"] for line in status)


def arguments(folder: Path, output: Path, *settings: str) -> list[str]:
    ours = (f"output.path={output}", f"train.batch={BATCH}", *settings)
    return ["--config", str(folder / "trainer.toml"), *(a for s in ours for a in ("--set", s))]


def test_a_port_that_is_taken_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(arguments(folder, tmp_path / "model", f"metrics.port={port}")) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"metrics.port: nothing can listen on 127.0.0.1:{port}" in line
    assert "Set another port" in line


def test_nothing_listens_unless_a_port_is_set(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder, tmp_path / "model", "log.level=warning")) == 0
    assert "metrics are on" not in capsys.readouterr().err
    assert main(arguments(folder, tmp_path / "other", "metrics.port=0")) == 0
    said = capsys.readouterr().err
    assert "metrics are on http://127.0.0.1:" in said
    assert "INFO    checkpoint of batch" in said
    assert not logging.getLogger("trainer").handlers


def test_what_hangs_shows() -> None:
    """Lag, idle time and ages grow without any call."""
    now = 1_000.0
    instruments = Instruments(("click",), lambda: now)
    instruments.learned(Outcome(8, 3, 5_000, (0.1, 0.2, 0.3, 0.4)))
    instruments.turned(20, 5_000, 990.0)
    value = instruments.value
    assert (value("lag_seconds"), value("idle_seconds")) == (10, 0)
    now = 1_100.0
    assert (value("lag_seconds"), value("idle_seconds")) == (110, 100)
    assert value("checkpoint_age_seconds") == value("export_age_seconds") == 100
    assert value("newest_sample_timestamp_seconds") == 5
    instruments.turned(0, 5_000, None)
    assert (value("lag_seconds"), value("idle_seconds")) == (0, 0)
    # what is written is not saved before it is complete
    instruments.unsaved.begun()
    assert value("checkpoint_age_seconds") == 100
    instruments.unsaved.completed()
    assert value("checkpoint_age_seconds") == 0
    assert value("export_age_seconds") == 100
    with pytest.raises(KeyError):
        value("colour")


def test_a_new_file_shows_before_a_batch_of_it_is_done(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may hang on the first one."""
    samples = tmp_path / "samples"
    shutil.copytree(folder, samples)
    later = files(samples)[-1]
    hidden = later.with_name(f".{later.name}")
    later.rename(hidden)

    def watch(running: Session) -> None:
        if running.rows == ROWS // 2 and hidden.exists():
            hidden.rename(later)

    settings = ("samples.follow=true", "samples.poll=1ms", f"train.batch={BATCH}")
    config = runs.configured(samples, tmp_path / "model", *settings)
    session = runs.session_of(config, watch=watch, stopping=lambda: session.rows == ROWS)
    runner = runs.local(session)
    learn, shown = runner.run, []

    def run(next_task: Callable[[], Task | None], *arguments: Any) -> None:
        def given() -> Task | None:
            task = next_task()
            if task is not None and session.rows == ROWS // 2:
                shown.append(session.instruments.value("pending_samples"))
            return task

        learn(given, *arguments)

    monkeypatch.setattr(runner, "run", run)
    session.run()
    runner.stop()
    assert shown[0] == ROWS // 2


def test_what_is_learned_while_files_are_written_is_not_saved_by_them() -> None:
    unsaved = Unsaved()
    assert unsaved.age(5) == 0
    unsaved.learned(10)
    unsaved.begun()
    unsaved.learned(12)
    unsaved.learned(13)
    assert unsaved.age(20) == 10
    unsaved.completed()
    assert unsaved.age(20) == 8
    # given up: the next one has all of it
    unsaved.begun()
    unsaved.learned(15)
    unsaved.begun()
    unsaved.completed()
    assert unsaved.age(20) == 0
    unsaved.learned(16)
    unsaved.forget()
    assert unsaved.age(20) == 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Prometheus) is missing")
def test_each_alert_fires_by_its_cause(tmp_path: Path) -> None:
    for file in (RULES, Path(__file__).with_name("alerts_test.yml")):
        shutil.copy(file, tmp_path)
    done = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / "alerts_test.yml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    fired = re.findall(
        r"alertname: (\w+)\n +exp_alerts:\n", (tmp_path / "alerts_test.yml").read_text()
    )
    assert set(fired) == alerts
    # what to do then is on the page
    assert alerts <= set(re.findall(r"`(Trainer\w+)`", PAGE.read_text()))
