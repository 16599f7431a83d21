"""Corrections of the job's own output, against a job that waited for every straggler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.flink import running
from tools.correct_samples import command as correct_samples
from tools.generate.model import ACTIONS, Traffic
from tools.generate.traffic import generate

pytestmark = pytest.mark.thorough

#: A third of all records come late, by up to six hours: far beyond a window of 20 minutes.
TRAFFIC = Traffic(800, items=10, hours=3.0, seed=5, late_share=0.3)
SETTINGS = (
    "actions.purchase.window=20min",
    "join.late_horizon=12h",
    "exposure.action=click",
    "sampling.rate=0.5",
    "output.late_features=true",
)


def test_corrected_samples_are_those_of_a_job_that_waited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(TRAFFIC, tmp_path / "in")
    config, output, patient = tmp_path / "in" / "pipeline.toml", tmp_path / "out", tmp_path / "all"
    running.join(config, output, *SETTINGS)
    running.join(config, patient, *SETTINGS, "join.allowed_lateness=8h")
    sets = [f"--set={setting}" for setting in (f"output.path={output}", *SETTINGS)]
    assert correct_samples.main(["--config", str(config), *sets]) == 0
    assert "samples made anew" in capsys.readouterr().out

    late = running.rows(patient, "late_actions")
    assert not [row for row in late if row["reason"] == "after_settle"]
    refused = {
        msgspec.json.decode(row["raw"])["request_id"]
        for row in running.rows(output, "rejected")
        if row["reason"] == "late_request"
    }
    truth = [r for r in running.rows(patient, "samples") if r["request_id"] not in refused]
    corrections = running.rows(output, "corrections")
    found = {_name(row): row for row in running.rows(output, "samples")}
    made_anew = [row for row in corrections if _name(row) not in found]
    assert {row["kind"] for row in corrections} == {"correction"}
    assert len(made_anew) > 20
    assert len(corrections) - len(made_anew) > 20
    found |= {_name(row): row for row in corrections}
    # of a sample that sampling had left out, nobody knows any more whether it was exposed
    unknown = {_name(row) for row in made_anew if row["label_click"] is None}
    assert 0 < len(unknown) < len(made_anew)
    assert {name: _content(row, name in unknown) for name, row in found.items()} == {
        _name(row): _content(row, _name(row) in unknown) for row in truth
    }


def _name(row: dict[str, Any]) -> tuple[str, int]:
    return (row["request_id"], row["position"])


def _content(row: dict[str, Any], unknown_exposure: bool) -> dict[str, Any]:
    """All but what says when, and how often, it was written."""
    leave = {"observed_ms", "revision", "kind"} | {f"mature_{m.kind}" for m in ACTIONS}
    if unknown_exposure:
        leave |= {"label_click", "delay_click_ms"}
    return {k: v for k, v in row.items() if k not in leave}
