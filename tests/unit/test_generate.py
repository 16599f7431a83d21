"""The traffic generator: a seed is a promise, and the truth agrees with what was written."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.oracle import expected
from tests.timeline import Action, Event, Request, Rules, Timeline
from tools.generate.command import main
from tools.generate.model import ACTIONS, LogNormal, Traffic
from tools.generate.traffic import generate

SMALL = Traffic(requests=300, items=6, features=9, seed=5, hours=2, users=40, catalogue=60)
ROUGH = replace(SMALL, bad_share=0.5, duplicate_share=0.1, late_share=0.1)


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def written(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, traffic in (("a", ROUGH), ("b", ROUGH), ("c", replace(ROUGH, seed=6))):
        generate(traffic, tmp_path / name)
    one, again, other = (written(tmp_path / name) for name in "abc")
    assert one == again
    assert not {name for name in one if name.endswith(".jsonl")} <= {
        name for name in other if other[name] == one.get(name)
    }


def test_every_line_is_in_the_truth(tmp_path: Path) -> None:
    counts = generate(ROUGH, tmp_path)
    records = read(tmp_path / "truth" / "records.parquet")
    by_file: dict[str, list[dict[str, Any]]] = {}
    for row in records:
        by_file.setdefault(row["file"], []).append(row)
    latest = {"features": 0, "actions": 0}
    for stream in latest:
        paths = sorted((tmp_path / stream).glob("*.jsonl"))
        assert len(paths) > 5, "rotated"
        for path in paths:
            data, offset = path.read_bytes(), 0
            rows = by_file.pop(f"{stream}/{path.name}")
            for row, line in zip(rows, data.removesuffix(b"\n").split(b"\n"), strict=True):
                assert row["offset"] == offset
                offset += len(line) + 1
                if row["what"] == "bad":
                    assert row["event_time"] is None
                    continue
                record = msgspec.json.decode(line)
                assert record["event_time"] == row["event_time"]
                assert row["behind_ms"] == max(0, latest[stream] - row["event_time"])
                latest[stream] = max(latest[stream], row["event_time"])
    assert not by_file

    for stream, sorts in counts.items():
        found = Counter(row["what"] for row in records if row["stream"] == stream)
        assert found == {what: sorts[what] for what in ("good", "duplicate", "bad")}
    good = [row["name"] for row in records if row["what"] == "good"]
    caused = [row["name"] for row in read(tmp_path / "truth" / "actions.parquet") if row["written"]]
    assert sorted(good) == sorted(caused + [f"r{n:08}" for n in range(ROUGH.requests)])


def test_every_sort_of_bad_record_is_made_and_is_bad(tmp_path: Path) -> None:
    traffic = replace(ROUGH, requests=400, bad_share=1.0)
    counts = generate(traffic, tmp_path)
    both = {
        *("broken_json", "invalid_utf8", "wrong_type", "missing_field", "not_finite"),
        *("out_of_range", "too_deep", "too_large", "future_clock"),
    }
    assert {r for r in counts["features"] if ":" in r} == {
        f"bad:{reason}" for reason in both | {"empty_items"}
    }
    assert {r for r in counts["actions"] if ":" in r} == {
        f"bad:{reason}" for reason in both | {"unknown_action", "missing_value"}
    }
    for row in read(tmp_path / "truth" / "records.parquet"):
        if row["what"] != "bad":
            continue
        data = (tmp_path / row["file"]).read_bytes()[row["offset"] :].split(b"\n", 1)[0]
        undecodable = {"broken_json", "invalid_utf8", "not_finite", "too_deep", "too_large"}
        if row["reason"] in undecodable:
            with pytest.raises((msgspec.DecodeError, UnicodeDecodeError, RecursionError)):
                msgspec.json.decode(data, type=dict[str, Any])
        assert (len(data) > traffic.max_record_bytes) == (row["reason"] == "too_large")


def test_disorder_stays_within_its_bound_but_for_late_ones(tmp_path: Path) -> None:
    generate(replace(SMALL, late_share=0), tmp_path / "none")
    behind = [row["behind_ms"] for row in read(tmp_path / "none" / "truth" / "records.parquet")]
    assert 0 < max(b for b in behind if b is not None) <= SMALL.disorder_ms
    generate(replace(SMALL, late_share=0.05), tmp_path / "some")
    behind = [row["behind_ms"] for row in read(tmp_path / "some" / "truth" / "records.parquet")]
    assert max(b for b in behind if b is not None) > 60_000


def test_delays_have_their_analytic_quantiles(tmp_path: Path) -> None:
    generate(replace(SMALL, requests=3_000, items=20, features=1, catalogue=500), tmp_path)
    actions = read(tmp_path / "truth" / "actions.parquet")
    for model in ACTIONS:
        delays = np.array([a["delay_ms"] for a in actions if a["action"] == model.kind])
        assert len(delays) > 100
        for p in (0.5, 0.9):
            # the standard error of the share below a quantile is sqrt(p (1 - p) / n)
            share = np.mean(delays <= model.delay.quantile(p) * 1_000)
            assert abs(share - p) < 4 * (p * (1 - p) / len(delays)) ** 0.5
    by_position = Counter(a["position"] for a in actions if a["action"] == "click")
    assert by_position[0] > 2 * by_position[5] > 2 * by_position[19] > 0


def test_log_normal() -> None:
    delay = LogNormal(8.0, 1.0)
    assert delay.quantile(0.5) == pytest.approx(8.0)
    assert delay.share_within(delay.quantile(0.99)) == pytest.approx(0.99)
    assert delay.share_within(0) == 0


def timeline(folder: Path) -> Timeline:
    """Everything that was written, without watermarks: each row is settled by the end."""
    events: list[Event] = []
    for path in sorted((folder / "features").glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            r = msgspec.json.decode(line)
            items = tuple(item["item_id"] for item in r["items"])
            events.append(Request(r["request_id"], r["user_id"], r["event_time"], items))
    for path in sorted((folder / "actions").glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            a = msgspec.json.decode(line)
            names = (a.get("event_id"), a["user_id"], a["item_id"], a.get("request_id"))
            events.append(Action(*names, a["action"], a.get("value"), a["event_time"]))
    times = {
        kind: max(e.event_time for e in events if isinstance(e, kind)) for kind in (Request, Action)
    }
    return Timeline(tuple(events), min(times.values()))


def test_the_join_of_what_is_written_is_the_truth_within_the_windows(tmp_path: Path) -> None:
    traffic = replace(SMALL, bad_share=0, hours=5)
    generate(traffic, tmp_path)
    rules = Rules(
        "request_id",
        {model.kind: model.window_ms for model in ACTIONS},
        {model.kind: model.label for model in ACTIONS},
    )
    got = expected(timeline(tmp_path), rules)
    truth = {
        (row["request_id"], row["position"]): row
        for row in read(tmp_path / "truth" / "impressions.parquet")
    }
    assert len(got.rows) == len(truth) == traffic.requests * traffic.items
    compared: Counter[str] = Counter()
    for row in got.rows:
        true = truth[row.request_id, row.position]
        assert (row.item_id, row.user_id) == (true["item_id"], true["user_id"])
        for model in ACTIONS:
            delay = true[f"delay_{model.kind}_ms"]
            within = delay is not None and delay <= model.window_ms
            if row.mature[model.kind]:
                assert row.delays[model.kind] == (delay if within else None)
                compared[model.kind] += within
                if within and model.value is not None:
                    assert row.labels[model.kind] == true[f"value_{model.kind}"]
    assert min(compared[model.kind] for model in ACTIONS) > 0
    assert got.counters["rejected.duplicate_action"] > 0


def test_by_user_actions_name_no_request(tmp_path: Path) -> None:
    generate(replace(SMALL, key="user_id", bad_share=0), tmp_path)
    actions = [event for event in timeline(tmp_path).events if isinstance(event, Action)]
    assert actions
    assert all(action.request_id is None for action in actions)
    assert 'key = "user_id"' in (tmp_path / "pipeline.toml").read_text()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "g"
    arguments = ["--out", str(out), "--requests", "20", "--items", "3", "--hours", "1"]
    assert main(arguments) == 0
    parameters = json.loads((out / "truth" / "parameters.json").read_text())
    assert parameters["traffic"]["requests"] == 20
    assert "features: 20 good" in capsys.readouterr().err
    assert main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*arguments[:2], "--requests", "0"]) == 2
    assert "must be positive" in capsys.readouterr().err
