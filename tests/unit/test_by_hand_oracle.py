"""The truth written by hand beside the fixtures is what the oracle expects of their files."""

from __future__ import annotations

import json
import struct
from collections import Counter
from typing import Any

import pytest

from tests import by_hand
from tests.by_hand import SETS, ByHand, Line
from tests.oracle import expected
from tests.timeline import Action, ActionIdentity, Outcome, Rejection, Request, Row


@pytest.fixture(params=SETS)
def files(request: pytest.FixtureRequest) -> ByHand:
    return by_hand.load(request.param)


@pytest.fixture
def outcome(files: ByHand) -> Outcome:
    return expected(by_hand.timeline(files), files.rules)


def test_samples(files: ByHand, outcome: Outcome) -> None:
    features = set(files.config["features"]) | {"sample_id"}
    written = [{k: v for k, v in row.items() if k not in features} for row in files.samples]
    assert _sorted(map(_sample, outcome.rows)) == _sorted(written)


def test_late_actions(files: ByHand, outcome: Outcome) -> None:
    expected_late = [
        {
            "request_id": late.sample[0],
            "item_id": late.identity.item_id,
            "position": late.sample[1],
            "request_time": late.request_time,
            "event_id": late.identity.event_id,
            "action": late.identity.action,
            "value": late.identity.value,
            "event_time": late.identity.event_time,
            "delay_ms": late.delay,
            "reason": late.reason,
        }
        for late in outcome.late
    ]
    written = [
        {k: v for k, v in row.items() if k not in ("sample_id", "user_id")} for row in files.late
    ]
    assert _sorted(expected_late) == _sorted(written)


def test_rejected(files: ByHand, outcome: Outcome) -> None:
    lines = {(line.file, line.number): line for line in by_hand.read_in_order(files)}
    written: Counter[Rejection] = Counter()
    for row in files.rejected:
        line = lines[row["file"], row["line"]]
        assert (row["stream"], row["offset"]) == (line.stream, line.offset)
        if row["reason"] in by_hand.JOIN_REASONS:
            written[_rejection(line, row["reason"], files)] += 1
    assert Counter(outcome.rejected) == written


def test_every_line_is_accounted_for(files: ByHand, outcome: Outcome) -> None:
    bad = sum(row["reason"] not in by_hand.JOIN_REASONS for row in files.rejected)
    counted = outcome.counters["requests"] + outcome.counters["actions"] + bad
    assert counted == len(by_hand.read_in_order(files))


def test_features_are_those_of_the_request(files: ByHand) -> None:
    """The first good record of an id and time is the one that made the rows."""
    logged: dict[tuple[str, str, int], Any] = {}
    skip = {(row["file"], row["line"]) for row in files.rejected}
    for line in by_hand.read_in_order(files):
        if line.stream == "features" and (line.file, line.number) not in skip:
            record = json.loads(line.raw)
            logged[record["request_id"], record["user_id"], record["event_time"]] = record
    for row in files.samples:
        record = logged[row["request_id"], row["user_id"], row["event_time"]]
        item = record["items"][row["position"]]
        assert item["item_id"] == row["item_id"]
        for name, spec in files.config["features"].items():
            source = (
                record.get("context", {}) if spec["scope"] == "context" else item.get("features")
            )
            assert row[name] == (source or {}).get(name), (row, name)


def test_sample_ids_are_the_documented_formula(files: ByHand) -> None:
    xxhash = pytest.importorskip("xxhash")
    rows = [row for row in [*files.samples, *files.late] if "sample_id" in row]
    assert rows
    for row in rows:
        request = xxhash.xxh3_64_intdigest(row["request_id"].encode())
        front = struct.pack("<QQ", request, row["position"])
        digest = xxhash.xxh3_64_intdigest(front + row["item_id"].encode())
        assert row["sample_id"] == int.from_bytes(digest.to_bytes(8, "big"), "big", signed=True)


def test_both_sets_together_have_every_reason_and_aggregate() -> None:
    sets = [by_hand.load(name) for name in SETS]
    reasons = {row["reason"] for files in sets for row in files.rejected}
    assert reasons == by_hand.JOIN_REASONS | {
        *("broken_json", "invalid_utf8", "wrong_type", "missing_field", "empty_items"),
        *("not_finite", "out_of_range", "too_deep", "too_large"),
        *("unknown_action", "missing_value", "future_clock"),
    }
    assert {row["reason"] for files in sets for row in files.late} == {
        "after_settle",
        "outside_window",
    }
    labels = {label for files in sets for label in files.rules.labels.values()}
    assert labels == {"any", "count", "sum", "max", "last"}


# -- helpers ---------------------------------------------------------------------------------------


def _sample(row: Row) -> dict[str, Any]:
    out: dict[str, Any] = {
        "request_id": row.request_id,
        "user_id": row.user_id,
        "item_id": row.item_id,
        "position": row.position,
        "event_time": row.event_time,
    }
    for kind in row.labels:
        out[f"label_{kind}"] = row.labels[kind]
        out[f"delay_{kind}_ms"] = row.delays[kind]
        out[f"mature_{kind}"] = row.mature[kind]
    return out


def _sorted(rows: Any) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def _rejection(line: Line, reason: str, files: ByHand) -> Rejection:
    event = by_hand.event(line)
    if isinstance(event, Request):
        return Rejection("features", reason, event)
    return Rejection("actions", reason, _identity(event, files))


def _identity(action: Action, files: ByHand) -> ActionIdentity:
    key = action.request_id if files.rules.key == "request_id" else action.user_id
    assert key is not None
    return ActionIdentity(
        key, action.event_id, action.action, action.item_id, action.value, action.event_time
    )
