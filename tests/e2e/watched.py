"""The dashboard and the alert rules of `docker/`, as tests ask them of a Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.flink import running

DASHBOARD = running.ROOT / "docker" / "grafana" / "join.json"
ALERTS = running.ROOT / "docker" / "prometheus" / "alerts.yml"

#: What a rule says, and what a test says instead, for a job whose windows are seconds. Each must be
#: there: a rule that is changed is not tested by what it was before.
SHORTER: dict[str, tuple[tuple[str, str], ...]] = {
    "ProcessDown": (),
    "NoJobRuns": (),
    "JobRestarts": (("[15m]) > 1.5", "[1m]) > 0"),),
    "CheckpointTooOld": (("1000 > 900\n", "1000 > 15\n"), ("1000 > 900)", "1000 > 60)")),
    "CheckpointsFail": (("[15m])\n", "[12s])\n"), ("[15m])\n", "[12s])\n")),
    "NothingRead": (("[15m]", "[12s]"),),
    "ReadingBehind": (("> 1000000", "> 500"),),
    "RequestsOverdue": (("> 3600", "> 20"),),
    "SamplesOld": (("> 86400", "> 30"),),
    "LabelsHeld": (("> 600", "> 3"),),
    "LateRequests": (("[15m]", "[12s]"), ("[15m]", "[12s]")),
    "UnusableRecords": (("[15m]", "[12s]"), ("[15m]", "[12s]"), ("[15m]", "[12s]")),
    "OrphanActions": (("[1h]", "[12s]"), ("[1h]", "[12s]")),
    "NoPositives": (("[1h]", "[12s]"), ("[1h]", "[12s]"), ("> 1000", "> 20")),
}
#: Instead of the `for` of rules that fire when a scrape does not answer in time, as happens on a
#: busy machine: several in a row must fail. The others have none.
UNANSWERED = {"ProcessDown": "12s", "NoJobRuns": "12s"}


@dataclass(frozen=True)
class Query:
    """A line, or some, of a panel. `legend`: with the labels in it as `{{label}}`."""

    panel: str
    unit: str
    expression: str
    legend: str

    def name(self, labels: dict[str, str]) -> str:
        """What the legend says of a series."""
        return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), self.legend)


def queries(job: str, *, interval: str = "12s") -> Iterator[Query]:
    """The queries of all panels, with the variables of the dashboard replaced."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", interval).replace("$job", job)
            assert "$" not in expression, "a variable that no one replaces"
            unit = panel["fieldConfig"]["defaults"]["unit"]
            yield Query(panel["title"], unit, expression, target["legendFormat"])


def alerts() -> dict[str, dict[str, Any]]:
    """The rules by name."""
    (group,) = YAML(typ="safe").load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def write_shorter_alerts(to: Path) -> None:
    """The same rules for a job of seconds: `SHORTER` and `UNANSWERED`."""
    rules = []
    for name, rule in alerts().items():
        expression = rule["expr"]
        for says, instead in SHORTER[name]:
            assert says in expression, f"{name} does not say {says!r} any more"
            expression = expression.replace(says, instead, 1)
        assert not re.search(r"\[\d+[mh]\]", expression) or name == "JobRestarts", expression
        rules.append({"alert": name, "expr": expression, "for": UNANSWERED.get(name, "0s")})
    to.write_text(json.dumps({"groups": [{"name": "shorter", "rules": rules}]}))
