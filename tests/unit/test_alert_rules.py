"""Alert rules and dashboards: what they ask is valid and explained, and each alert has a case."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker" / "prometheus"
NAMED = re.compile(r"\bflink_\w+")


def _yaml(name: str) -> Any:
    return YAML(typ="safe").load((FOLDER / name).read_text(encoding="utf-8"))


def _alerts() -> set[str]:
    return {rule["alert"] for group in _yaml("alerts.yml")["groups"] for rule in group["rules"]}


needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="needs promtool on PATH (apt-get install prometheus)",
)


def _promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _queries(dashboard: str) -> list[str]:
    """What the panels and the annotations ask, with the variables replaced."""
    asked: list[str] = []

    def note(found: dict[str, Any]) -> dict[str, Any]:
        if "expr" in found:
            asked.append(found["expr"].replace("$__rate_interval", "1m"))
        return found

    text = (ROOT / "docker" / "grafana" / dashboard).read_text(encoding="utf-8")
    json.loads(text, object_hook=note)
    return [re.sub(r"\$\w+", "x", query) for query in asked]


def _with_trainer(folder: Path) -> Path:
    """The configuration, with what is for a trainer switched on as its comment says."""
    for file in FOLDER.glob("*alerts.yml"):
        shutil.copy(file, folder)
    text = (FOLDER / "prometheus.yml").read_text(encoding="utf-8")
    to = folder / "prometheus.yml"
    to.write_text(re.sub(r"(?m)^  # (- |  )", r"  \1", text), encoding="utf-8")
    return to


@needs_promtool
def test_the_rules_fire_as_their_own_tests_expect() -> None:
    _promtool("test", "rules", FOLDER / "alerts_test.yml")


@needs_promtool
def test_prometheus_takes_the_configuration_and_every_query(tmp_path: Path) -> None:
    _promtool("check", "config", FOLDER / "prometheus.yml")
    with_trainer = _with_trainer(tmp_path)
    _promtool("check", "config", with_trainer)
    for dashboard in ("join.json", "trainer.json"):
        queries = _queries(dashboard)
        assert len(queries) > 10
        rules = [{"record": f"query_{i}", "expr": query} for i, query in enumerate(queries)]
        file = tmp_path / dashboard
        file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
        _promtool("check", "rules", file)


def test_the_trainer_is_not_scraped_unless_it_is_switched_on(tmp_path: Path) -> None:
    yaml = YAML(typ="safe")
    rules, jobs = ["alerts.yml"], ["flink"]
    for file in (FOLDER / "prometheus.yml", _with_trainer(tmp_path)):
        found = yaml.load(file.read_text(encoding="utf-8"))
        assert found["rule_files"] == rules
        assert [one["job_name"] for one in found["scrape_configs"]] == jobs
        rules, jobs = [*rules, "trainer-alerts.yml"], [*jobs, "sample-stitch-trainer"]


def test_each_alert_is_seen_to_fire_and_seen_to_be_silent() -> None:
    cases = [case for one in _yaml("alerts_test.yml")["tests"] for case in one["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == _alerts()
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == _alerts()


def test_the_page_says_what_to_do_at_each_alert() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [name for name in sorted(_alerts()) if f"| `{name}` |" not in page] == []


def test_the_page_explains_each_metric_that_is_asked_for() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rules = [rule["expr"] for group in _yaml("alerts.yml")["groups"] for rule in group["rules"]]
    named = {name for text in (*_queries("join.json"), *rules) for name in NAMED.findall(text)}
    assert len(named) > 20
    short = {name.removeprefix("flink_taskmanager_job_task_operator_") for name in named}
    assert sorted(name for name in short if f"`{name}`" not in page) == []
