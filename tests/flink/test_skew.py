"""Very large requests and very busy keys go through the whole job, and the audit closes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from jobs.pipeline.config import load
from tests.flink import running
from tools.audit.command import audit

T = 1_700_038_800_000  # 2023-11-15 09:00 UTC
ITEMS, ACTIONS, COPIES = 5_000, 10_000, 1_000

CONFIG = """
[join]
key = "{key}"
[actions.click]
window = "10min"
label = "count"
[features.price]
type = "float64"
[limits]
items_per_request = {items}
actions_per_{of} = {actions}
[sources.features]
type = "files"
path = "features"
[sources.actions]
type = "files"
path = "actions"
out_of_orderness = "10min"
[output]
path = "out"
[runtime]
state_backend = "{backend}"
"""


def write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir()
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def request(name: str, user: str, at: int, items: int) -> dict[str, Any]:
    shown = [{"item_id": f"i{n}", "features": {"price": n / 2}} for n in range(items)]
    return {"request_id": name, "user_id": user, "event_time": T + at, "items": shown}


def click(name: str, request_id: str, user: str, at: int, item: int = 0) -> dict[str, Any]:
    return {
        "event_id": name,
        "request_id": request_id,
        "user_id": user,
        "item_id": f"i{item}",
        "action": "click",
        "event_time": T + at,
    }


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("key", "backend", "items", "actions"),
    [("request_id", "rocksdb", ITEMS, ACTIONS), ("user_id", "hashmap", ITEMS - 1, ACTIONS - 1)],
)
def test_nothing_is_lost_of_what_is_far_too_much(
    tmp_path: Path, key: str, backend: str, items: int, actions: int
) -> None:
    """The limits are just kept, or exceeded by one."""
    features = [
        request("wide", "u1", 0, ITEMS),
        request("busy", "u2", 0, 3),
        request("plain", "u3", 0, 2),
        request("end", "u4", 2 * 3_600_000, 1),
    ]
    # some are delivered twice
    clicks = [click(f"e{n}", "busy", "u2", 10 + 50 * n, n % 3) for n in range(ACTIONS)]
    again = clicks[:COPIES]
    others = [click(f"w{n}", "wide", "u1", 1_000 + n, n) for n in range(0, ITEMS, 100)]
    write(tmp_path / "features" / "1.jsonl", features)
    write(tmp_path / "actions" / "1.jsonl", [*others, *clicks[: ACTIONS // 2], *again])
    more = tmp_path / "actions" / "2.jsonl"
    more.write_text("".join(json.dumps(record) + "\n" for record in clicks[ACTIONS // 2 :]))
    config = tmp_path / "pipeline.toml"
    of = key.removesuffix("_id")
    config.write_text(CONFIG.format(key=key, of=of, backend=backend, items=items, actions=actions))

    running.join(config, tmp_path / "out")

    rows = running.rows(tmp_path / "out", "samples")
    counted = Counter[str]()
    for row in rows:
        counted[row["request_id"]] += row["label_click"]
    reasons = Counter(r["reason"] for r in running.rows(tmp_path / "out", "rejected"))
    is_beyond = actions < ACTIONS
    assert counted["busy"] == min(ACTIONS, actions)
    assert reasons["duplicate_action"] == COPIES
    assert reasons["too_many_actions"] == is_beyond
    assert reasons["too_many_items"] == is_beyond
    assert reasons["orphan_action"] == (len(others) if is_beyond else 0)
    assert counted["wide"] == (0 if is_beyond else len(others))
    assert len(rows) == 3 + 2 + 1 + (0 if is_beyond else ITEMS)
    report = audit(load(config))
    assert report.findings == []
