"""Generated timelines on the mini-cluster, against the oracle: both keys, a thousand each and more.

Flink has one watermark, so the timelines run one after the other in a single stream: shifted in
time, with ids of their own, each far behind the one before. Every column of every row is compared.
"""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.events import BEACON_KEY, ActionEvent, Origin, Progress, RequestEvent, Stream
from tests import configured, core_runner, oracle
from tests.flink import running
from tests.strategies import START, policies_for, random_timelines, rules_for
from tests.timeline import (
    END,
    Action,
    ActionIdentity,
    Event,
    FeatureValue,
    Key,
    LateAction,
    Outcome,
    Rejection,
    Request,
    Row,
    Rules,
    Timeline,
    Watermark,
    apart,
    context_features,
    item_features,
)

#: For each key and configuration.
TIMELINES = 250
#: Longer than any of them spans, tombstones included.
APART_MS = 2000


def configurations(key: Key) -> dict[str, Rules]:
    """One of `strategies.rules_for`, with skew, lateness and labels of values, and of policies."""
    names = (
        "es_dfm, unexposed dropped",
        "defer, sampled",
        "fake_negative, marked and sampled",
        "defer, label silence for a while",
        "defer, three actions a key",
    )
    return {"wait": rules_for(key)[4]} | {name: policies_for(key)[name] for name in names}


@pytest.mark.parametrize("key", ["request_id", "user_id"])
def test_mini_cluster_gives_what_the_oracle_says(key: Key, tmp_path: Path) -> None:
    """All configurations in one process, a job each: most of the time is that of a start."""
    scripts: dict[str, tuple[Timeline, Path]] = {}
    for name, rules in configurations(key).items():
        made = random_timelines(TIMELINES, seed=2026, key=key, rules=rules)
        whole = apart([timeline for timeline, _ in made], APART_MS, rules)
        folder = tmp_path / f"{len(scripts)}"
        folder.mkdir()
        lines = _script(whole, rules)
        (folder / "script.jsonl").write_bytes(
            b"".join(msgspec.json.encode(x) + b"\n" for x in lines)
        )
        (folder / "pipeline.toml").write_text(configured.toml(rules))
        scripts[name] = whole, folder

    folders = [str(folder) for _, folder in scripts.values()]
    done = running.run_module("tests.flink.timeline_job", *folders)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, (whole, folder) in scripts.items():
        _compare(whole, configurations(key)[name], folder / "out", name)


def _compare(whole: Timeline, rules: Rules, output: Path, name: str) -> None:
    expected = oracle.expected(whole, rules).without_made_at()
    assert core_runner.run(whole, rules).without_made_at() == expected, name
    assert _everything_occurs(expected, rules), name

    found = running.rows(output, "samples")
    rows = Counter(_frozen(_row(r, rules)) for r in found)
    assert rows == Counter(map(_frozen, expected.rows)), name
    requests = defaultdict(list)
    for event in whole.events:
        if isinstance(event, Request):
            requests[event.user_id, event.request_id, event.event_time].append(event)
    for r in found:
        # an id may come twice with one time, and other items
        logged = requests[r["user_id"], r["request_id"], r["event_time"]]
        assert any(_features(request, r["position"]) == _features_of(r) for request in logged), r
    assert sorted(_late(output, rules.key), key=lambda x: x.sort_key) == list(expected.late)
    rejected = _rejected(output, rules.key)
    assert sorted(rejected, key=lambda x: x.sort_key) == list(expected.rejected)


def _everything_occurs(expected: Outcome, rules: Rules) -> bool:
    """Not a comparison of nothing with nothing."""
    count = expected.counters
    return (
        len(expected.rows) > 200
        and count["late"] > 50
        and count["rejected.late_request"] > 20
        and (rules.sampling.rate == 1.0 or count["sampled_out"] > 50)
        and (rules.exposure is None or {row.exposed for row in expected.rows} != {None})
        and (rules.exposure is None or rules.unexposed == "mark" or count["unexposed"] > 50)
        and (rules.first_emit_after is None or any(row.revision > 1 for row in expected.rows))
    )


def _features(request: Request, position: int) -> list[FeatureValue]:
    if position >= len(request.items):
        return []
    values = context_features(request) | item_features(request, position)
    sample = oracle.sample_id(request, position)
    return [sample, *(values[f.name] for f in core_runner.SCHEMA.features)]


def _features_of(row: dict[str, Any]) -> list[FeatureValue]:
    return [row["sample_id"], *(row[f.name] for f in core_runner.SCHEMA.features)]


def _script(timeline: Timeline, rules: Rules) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    # a watermark needs a row that it follows; before the first event there is this one
    tick = Action("tick", "tick", "tick", "tick", "click", None, START - 1)
    reached = -1
    for event in (tick, *timeline.events):
        clock = lines[-1]["clock"] if lines else 0
        if isinstance(event, Watermark):
            lines[-1]["clock"] = event.time + 1
            continue
        lines.append({"key": _key(event, rules.key), "event": _packed(event), "clock": clock})
        if rules.silence is not None and isinstance(event, Action) and event is not tick:
            reached = max(reached, event.event_time)
            lines.append(_beacon("actions", reached, clock))
    for stream in ("features", "actions"):
        if timeline.progress is not None:
            lines.append(_beacon(stream, timeline.progress, lines[-1]["clock"]))
    return lines


def _beacon(stream: Stream, time: int, clock: object) -> dict[str, object]:
    """There is one subtask: whatever the key, it hears of it."""
    packed = msgspec.msgpack.encode(Progress(stream, time))
    return {"key": f"{BEACON_KEY}0", "event": base64.b64encode(packed).decode(), "clock": clock}


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


def _frozen(row: Row) -> tuple[object, ...]:
    marks = (row.observed_ms, row.revision, row.kind, row.exposed, row.sampling_rate)
    kinds = sorted(row.labels)
    by_kind = (x for k in kinds for x in (row.labels[k], row.delays[k], row.mature[k]))
    return (*row.sample, row.item_id, *marks, *by_kind)


def _row(r: dict[str, Any], rules: Rules) -> Row:
    return Row(
        r["request_id"],
        r["user_id"],
        r["item_id"],
        r["position"],
        r["event_time"],
        {k: r[f"label_{k}"] for k in rules.windows},
        {k: r[f"delay_{k}_ms"] for k in rules.windows},
        {k: r[f"mature_{k}"] for k in rules.windows},
        END,
        *(r[mark] for mark in ("observed_ms", "revision", "kind", "exposed", "sampling_rate")),
    )


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
