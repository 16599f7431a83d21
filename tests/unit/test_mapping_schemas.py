"""Five public log schemas, mapped by configuration alone, against rows written by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tomli

from tests.mapped_join import joined
from tools.try_mapping.command import main as try_mapping

FOLDER = Path(__file__).parents[1] / "fixtures" / "mapping"
SCHEMAS = ("mind", "ebnerd", "criteo", "snowplow", "openrtb")
PAGE = (Path(__file__).parents[2] / "docs" / "mapping.md").read_text()


def truth(schema: str, what: str) -> list[dict[str, Any]]:
    lines = (FOLDER / schema / f"{what}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_rows_are_those_written_by_hand(schema: str) -> None:
    out = joined(FOLDER / schema / "pipeline.toml")
    rows = sorted(out.rows, key=lambda row: (row["event_time"], row["request_id"], row["position"]))
    expected = truth(schema, "expected")
    assert [
        {name: row[name] for name in of} for row, of in zip(rows, expected, strict=True)
    ] == expected
    # every feature, and the label of every kind, is in the truth
    declared = tomli.loads((FOLDER / schema / "pipeline.toml").read_text())
    exposure = declared.get("exposure", {}).get("action")
    labels = {f"label_{kind}" for kind in declared["actions"] if kind != exposure}
    assert {*declared["features"], *labels} <= expected[0].keys()


@pytest.mark.parametrize("schema", SCHEMAS)
def test_what_is_rejected_is_named_as_the_record_has_it(schema: str) -> None:
    out = joined(FOLDER / schema / "pipeline.toml")
    expected = truth(schema, "rejected")
    found = sorted((row["stream"], row["reason"]) for row in out.rejected)
    assert found == sorted((row["stream"], row["reason"]) for row in expected)
    decoded = {(r["stream"], r["raw"]): r["message"] for r in out.rejected if "raw" in r}
    for row in expected:
        if "begins" in row:
            source = tomli.loads((FOLDER / schema / "pipeline.toml").read_text())["sources"]
            (file,) = (FOLDER / schema / source[row["stream"]]["path"]).iterdir()
            raw = file.read_bytes().splitlines()[row["line"] - 1]
            assert decoded[row["stream"], raw].startswith(row["begins"])


def test_records_that_are_no_events_are_counted() -> None:
    counts = {schema: joined(FOLDER / schema / "pipeline.toml").counts for schema in SCHEMAS}
    assert counts["snowplow"]["features_skipped"] == 6
    assert counts["snowplow"]["actions_skipped"] == 2
    assert counts["openrtb"]["features_skipped"] == 1
    assert counts["openrtb"]["actions_ignored"] == 1
    # no item was clicked
    assert counts["ebnerd"]["actions_skipped"] == 2
    assert counts["criteo"]["actions_read"] == 8


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_page_has_the_mapping(schema: str) -> None:
    text = (FOLDER / schema / "pipeline.toml").read_text()
    mapping = text[: re.search(r"^\[features\.", text, re.MULTILINE).start()].strip()  # type: ignore[union-attr]
    assert f"```toml\n{mapping}\n```" in PAGE


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_records_can_be_tried(schema: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert try_mapping(["--config", str(FOLDER / schema / "pipeline.toml")]) == 0
    shown = capsys.readouterr().out
    for row in truth(schema, "expected"):
        assert row["request_id"] in shown
