"""The alert rules of the jobs: each has a cause in promtool's tests by which it fires."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker" / "prometheus"


def _yaml(name: str) -> Any:
    return YAML(typ="safe").load((FOLDER / name).read_text(encoding="utf-8"))


def _alerts() -> set[str]:
    return {rule["alert"] for group in _yaml("alerts.yml")["groups"] for rule in group["rules"]}


@pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="needs promtool on PATH (apt-get install prometheus)",
)
def test_the_rules_fire_as_their_own_tests_expect() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", str(FOLDER / "alerts_test.yml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_seen_to_fire_and_seen_to_be_silent() -> None:
    cases = [case for one in _yaml("alerts_test.yml")["tests"] for case in one["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == _alerts()
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == _alerts()


def test_the_page_says_what_to_do_at_each_alert() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [name for name in sorted(_alerts()) if f"| `{name}` |" not in page] == []
