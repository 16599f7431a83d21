"""Generated timelines on the mini-cluster, against the oracle: both keys, a thousand each and more.

Flink has one watermark, so the timelines run one after the other in a single stream: shifted in
time, with ids of their own, each far behind the one before.
"""

from __future__ import annotations

import base64
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from schemas.events import STREAMS, ActionEvent, Origin, Progress, RequestEvent
from tests import core_runner, oracle
from tests.flink import running
from tests.strategies import START, random_timelines, rules_for
from tests.timeline import (
    END,
    Action,
    ActionIdentity,
    Event,
    Key,
    LateAction,
    Rejection,
    Request,
    Row,
    Rules,
    Timeline,
    Watermark,
    concatenate,
    shift,
)

TIMELINES = 1000
#: Longer than any of them spans, tombstones included.
APART_MS = 2000
#: The configurations that run, of `strategies.rules_for`: with skew, lateness, every kind of label.
WHICH = {"request_id": 4, "user_id": 4}


@pytest.mark.parametrize("key", ["request_id", "user_id"])
def test_mini_cluster_gives_what_the_oracle_says(key: Key, tmp_path: Path) -> None:
    rules = rules_for(key)[WHICH[key]]
    made = random_timelines(TIMELINES, seed=2026, key=key, rules=rules)
    apart = [shift(t, i * APART_MS, f"t{i}.") for i, (t, _) in enumerate(made)]
    whole = concatenate(apart)
    expected = oracle.expected(whole, rules).without_settled_at()
    assert core_runner.run(whole, rules).without_settled_at() == expected

    script, output, config = tmp_path / "script.jsonl", tmp_path / "out", tmp_path / "p.toml"
    script.write_bytes(b"".join(msgspec.json.encode(x) + b"\n" for x in _script(whole, key)))
    config.write_text(_config(rules))
    done = running.run_module("tests.flink.timeline_job", str(script), str(output), str(config))
    assert done.returncode == 0, done.stdout + done.stderr

    assert Counter(_rows(output, rules)) == Counter(map(_frozen, expected.rows))
    assert sorted(_late(output, key), key=lambda x: x.sort_key) == list(expected.late)
    assert sorted(_rejected(output, key), key=lambda x: x.sort_key) == list(expected.rejected)


def _script(timeline: Timeline, key: Key) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    # a watermark needs a row that it follows; before the first event there is this one
    tick = Action("tick", "tick", "tick", "tick", "click", None, START - 1)
    for event in (tick, *timeline.events):
        if isinstance(event, Watermark):
            lines[-1]["clock"] = event.time + 1
            continue
        clock = lines[-1]["clock"] if lines else 0
        lines.append({"key": _key(event, key), "event": _packed(event), "clock": clock})
    for stream in STREAMS:
        if timeline.progress is not None:
            progress = msgspec.msgpack.encode(Progress(stream, timeline.progress))
            event64 = base64.b64encode(progress).decode()
            # one subtask: whatever the key, it hears of it
            lines.append({"key": "progress", "event": event64, "clock": lines[-1]["clock"]})
    return lines


def _key(event: Event, key: Key) -> str:
    assert not isinstance(event, Watermark)
    return (event.request_id or "") if key == "request_id" else event.user_id


def _packed(event: Event) -> str:
    if isinstance(event, Request):
        packed: RequestEvent | ActionEvent = core_runner.request_event(event)
    else:
        assert isinstance(event, Action)
        packed = msgspec.structs.replace(
            core_runner.action_event(event),
            raw=msgspec.json.encode(event),
            origin=Origin("timeline", 0, 1),
        )
    return base64.b64encode(msgspec.msgpack.encode(packed)).decode()


def _config(rules: Rules) -> str:
    actions = "".join(
        f'[actions.{k}]\nwindow = "{w}ms"\nlabel = "{rules.labels[k]}"\n'
        for k, w in rules.windows.items()
    )
    horizon = "" if rules.horizon is None else f'late_horizon = "{rules.horizon}ms"\n'
    return (
        f'[join]\nkey = "{rules.key}"\nclock_skew = "{rules.skew}ms"\n'
        f'allowed_lateness = "{rules.lateness}ms"\n{horizon}'
        f'[end_of_input]\nimmature = "{rules.immature}"\n{actions}'
        '[sources.features]\ntype = "files"\npath = "unused"\n'
        '[sources.actions]\ntype = "files"\npath = "unused"\n[output]\npath = "unused"\n'
    )


def _frozen(row: Row) -> tuple[object, ...]:
    named = (row.request_id, row.user_id, row.item_id, row.position, row.event_time)
    kinds = sorted(row.labels)
    return (*named, *((row.labels[k], row.delays[k], row.mature[k]) for k in kinds))


def _rows(output: Path, rules: Rules) -> list[tuple[object, ...]]:
    return [
        _frozen(
            Row(
                r["request_id"],
                r["user_id"],
                r["item_id"],
                r["position"],
                r["event_time"],
                {k: r[f"label_{k}"] for k in rules.windows},
                {k: r[f"delay_{k}_ms"] for k in rules.windows},
                {k: r[f"mature_{k}"] for k in rules.windows},
                END,
            )
        )
        for r in running.rows(output, "samples")
    ]


def _late(output: Path, key: Key) -> list[LateAction]:
    return [
        LateAction(
            (r["request_id"], r["position"]),
            r["request_time"],
            ActionIdentity(
                r["request_id"] if key == "request_id" else r["user_id"],
                r["event_id"],
                r["action"],
                r["item_id"],
                r["value"],
                r["event_time"],
            ),
            r["delay_ms"],
            r["reason"],
        )
        for r in running.rows(output, "late_actions")
    ]


def _rejected(output: Path, key: Key) -> list[Rejection]:
    out = []
    for r in running.rows(output, "rejected"):
        identity: Request | ActionIdentity
        if r["stream"] == "features":
            identity = msgspec.json.decode(r["raw"], type=Request)
        else:
            action = msgspec.json.decode(r["raw"], type=Action)
            if action.event_id == "tick":
                continue
            identity = ActionIdentity(
                _key(action, key),
                action.event_id,
                action.action,
                action.item_id,
                action.value,
                action.event_time,
            )
        out.append(Rejection(r["stream"], r["reason"], identity))
    return out
