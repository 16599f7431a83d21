"""Corrections: by hand, one late action a case; and against a join for which nothing was late."""

from __future__ import annotations

import io
import json
import math
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from corrections.apply import corrected, corrections
from corrections.result import Corrections
from corrections.versions import latest
from schemas import generations
from schemas.actions import ActionKind
from schemas.actions import Label as Aggregate
from schemas.features import Feature, FeatureSchema, FeatureType
from schemas.generations import Generation
from schemas.sample_id import sample_id
from schemas.samples import LATE_ACTIONS, samples
from tests import core_runner
from tests.timeline import Action, Event, Key, Outcome, Request, Rules, Timeline, Watermark
from tools.correct_samples.command import FILE, Report, main, print_report

T = 1_700_038_800_000  # 2023-11-15 09:00 UTC
CLICK = ActionKind("click", 10_000, "any")
PAY = ActionKind("pay", 60_000, "sum")
FEATURES = FeatureSchema.of(
    [
        Feature("price", FeatureType.parse("float32")),
        Feature("value", FeatureType.parse("string")),  # named as a column of late actions
        Feature("tags", FeatureType.parse("list<string>")),
    ]
)
SAMPLE = sample_id("r1", "i1", 0)
SHOWN = {"price": 2.5, "value": "v", "tags": ["new", "sale"]}


def table(kinds: Sequence[ActionKind], *rows: Mapping[str, Any]) -> pa.Table:
    """Samples; what a row does not say is that of a final negative."""
    plain: dict[str, Any] = {
        "sample_id": SAMPLE,
        "request_id": "r1",
        "user_id": "u1",
        "item_id": "i1",
        "position": 0,
        "event_time": T,
        **SHOWN,
        "observed_ms": 60_000,
        "exposed": None,
        "sampling_rate": 1.0,
        "revision": 0,
        "kind": "final",
    }
    for kind in kinds:
        empty = {"any": 0, "count": 0, "sum": 0.0}.get(kind.label)
        plain |= {f"label_{kind.name}": empty, f"delay_{kind.name}_ms": None}
        plain[f"mature_{kind.name}"] = True
    return pa.Table.from_pylist([plain | dict(r) for r in rows], schema=samples(FEATURES, kinds))


def late(*actions: Mapping[str, Any]) -> pa.Table:
    """Late actions: clicks after 5 s that would have been a label, but for what one says."""
    plain: dict[str, Any] = {
        "sample_id": SAMPLE,
        "request_id": "r1",
        "user_id": "u1",
        "item_id": "i1",
        "position": 0,
        "request_time": T,
        "event_id": None,
        "action": "click",
        "value": None,
        "event_time": T + 5_000,
        "delay_ms": 5_000,
        "reason": "after_settle",
        "features": None,
    }
    return pa.Table.from_pylist([plain | dict(a) for a in actions], schema=LATE_ACTIONS)


def only(made: Corrections) -> dict[str, Any]:
    (row,) = made.rows.to_pylist()
    return cast(dict[str, Any], row)


# -- one late action -------------------------------------------------------------------------------


def test_a_late_click_makes_a_positive_of_the_negative_and_leaves_the_rest() -> None:
    kinds = [CLICK, PAY]
    before = table(kinds, {"revision": 0, "kind": "provisional", "observed_ms": 0}, {"revision": 1})
    made = corrections(before, late({}), kinds)
    row, negative = only(made), before.to_pylist()[1]
    changed = {name: value for name, value in row.items() if value != negative[name]}
    assert changed == {"label_click": 1, "delay_click_ms": 5_000, "revision": 2} | {
        "kind": "correction"
    }
    assert made.rows.schema == before.schema
    assert dict(made.fates) == {("click", "corrected"): 1}
    assert corrected(before, late({}), kinds).to_pylist() == [*before.to_pylist(), row]
    assert latest(corrected(before, late({}), kinds)).to_pylist() == [row]


@pytest.mark.parametrize(
    ("aggregate", "label", "delay", "values", "expected"),
    [
        ("any", 0, None, [None], (1, 5_000)),
        ("any", 1, 7_000, [None], (1, 5_000)),
        ("count", 2, 3_000, [None, None], (4, 3_000)),
        ("sum", 0.1, 7_000, [0.2], (math.fsum([0.1, 0.2]), 5_000)),
        # beyond float64: the largest of that sign, whatever the order
        ("sum", 1e308, 7_000, [1e308, 1e308], (sys.float_info.max, 5_000)),
        ("sum", 1e308, 7_000, [1e308, -1.5e308], (0.5e308, 5_000)),
        ("max", None, None, [1.5], (1.5, 5_000)),
        ("max", 9.0, 7_000, [1.5], (9.0, 5_000)),
        ("last", None, None, [1.5], (1.5, 5_000)),
        # earlier than the first in the label, so than the last in it
        ("last", 9.0, 7_000, [1.5], (9.0, 5_000)),
    ],
)
def test_label_and_delay_by_aggregate(
    aggregate: Aggregate,
    label: float | None,
    delay: int | None,
    values: Sequence[float | None],
    expected: tuple[float, int],
) -> None:
    kinds = [ActionKind("pay", 60_000, aggregate)]
    before = table(kinds, {"label_pay": label, "delay_pay_ms": delay})
    row = only(corrections(before, late(*({"action": "pay", "value": v} for v in values)), kinds))
    assert (row["label_pay"], row["delay_pay_ms"]) == expected


@pytest.mark.parametrize("aggregate", ["sum", "max", "last"])
def test_a_zero_has_no_sign(aggregate: Aggregate) -> None:
    kinds = [ActionKind("pay", 60_000, aggregate)]
    made = corrections(table(kinds, {}), late({"action": "pay", "value": -0.0}), kinds)
    assert str(only(made)["label_pay"]) == "0.0"


def test_last_is_left_alone_where_the_order_cannot_be_known() -> None:
    kinds = [ActionKind("pay", 60_000, "last")]
    before = table(kinds, {"label_pay": 9.0, "delay_pay_ms": 5_000})
    actions = late(
        {"action": "pay", "value": 1.5, "delay_ms": 5_000}, {"action": "pay", "value": 2}
    )
    made = corrections(before, actions, kinds)
    assert made.rows.num_rows == 0
    assert dict(made.fates) == {("pay", "order_unknown"): 2}


def test_what_changes_nothing_makes_no_row() -> None:
    before = table([CLICK], {"label_click": 1, "delay_click_ms": 4_000})
    actions = late({}, {"reason": "outside_window", "delay_ms": 12_000}, {"action": "gone"})
    made = corrections(before, actions, [CLICK])
    assert made.rows.num_rows == 0
    assert dict(made.fates) == {
        ("click", "no_change"): 1,
        ("click", "outside_window"): 1,
        ("gone", "unknown_kind"): 1,
    }


def test_correcting_again_gives_the_same() -> None:
    before = table([CLICK, PAY], {})
    once = corrected(before, late({}), [CLICK, PAY])
    assert corrected(once, late({}), [CLICK, PAY]).equals(once)
    more = late({}, {"action": "pay", "value": 3.0})
    assert corrected(once, more, [CLICK, PAY]).equals(corrected(before, more, [CLICK, PAY]))


def test_samples_are_told_apart_by_request_and_position_not_by_their_hash() -> None:
    before = table([CLICK], {"position": 9}, {"position": 15})  # both with the same sample_id
    whole = latest(corrected(before, late({"position": 15}), [CLICK]))
    labels = {row["position"]: row["label_click"] for row in whole.to_pylist()}
    assert labels == {9: 0, 15: 1}


def test_nothing_at_all() -> None:
    assert corrected(table([CLICK]), late(), [CLICK]).num_rows == 0
    before = table([CLICK], {}, {"position": 7})
    assert latest(corrected(before, late(), [CLICK])).equals(before)


def test_samples_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="'label_pay'"):
        corrections(table([CLICK], {}), late({}), [CLICK, PAY])


# -- exposure and sampling -------------------------------------------------------------------------

VIEW = ActionKind("view", 10_000, "any")


def test_a_late_action_of_any_kind_exposes() -> None:
    kinds = [VIEW, CLICK]
    before = table(kinds, {"exposed": False})
    for action in ("view", "click"):
        row = only(corrections(before, late({"action": action}), kinds, exposure="view"))
        assert row["exposed"] is True
        assert row[f"label_{action}"] == 1


@pytest.mark.parametrize(
    ("action", "features", "rate"),
    [("click", SHOWN, 1.0), ("click", None, 0.1), ("view", SHOWN, 0.1)],
)
def test_a_negative_that_stood_for_others_does_so_unless_they_are_made_anew(
    action: str, features: Mapping[str, Any] | None, rate: float
) -> None:
    before = table([VIEW, CLICK], {"sampling_rate": 0.1, "exposed": False})
    told = None if features is None else json.dumps(features)
    actions = late({"action": action, "features": told})
    assert only(corrections(before, actions, [VIEW, CLICK], exposure="view"))[
        "sampling_rate"
    ] == pytest.approx(rate)


def test_a_sample_that_was_left_out_is_made_anew_from_the_features() -> None:
    kinds = [CLICK, PAY]
    actions = late(
        {"features": json.dumps(SHOWN)},
        {"features": json.dumps(SHOWN), "delay_ms": 4_000},
        {"position": 7},
    )
    made = corrections(table(kinds), actions, kinds)
    (expected,) = table(
        kinds,
        {
            "label_click": 1,
            "delay_click_ms": 4_000,
            "revision": 1,
            "kind": "correction",
            "sampling_rate": 1.0,
        },
    ).to_pylist()
    assert only(made) == expected
    assert made.anew == 1
    assert dict(made.fates) == {("click", "made_anew"): 2, ("click", "no_features"): 1}


def test_where_nothing_is_left_out_a_missing_sample_is_only_counted() -> None:
    made = corrections(table([CLICK]), late({"features": "{}"}), [CLICK], anew=False)
    assert made.rows.num_rows == 0
    assert dict(made.fates) == {("click", "not_written"): 1}


def test_a_late_view_makes_a_negative_which_sampling_decides_on() -> None:
    kinds = [VIEW, CLICK]
    actions = late({"action": "view", "features": json.dumps(SHOWN)})

    def made(rate: float | None) -> Corrections:
        return corrections(
            table(kinds), actions, kinds, exposure="view", negative_rate=lambda *_: rate
        )

    row = only(made(0.25))
    assert (row["sampling_rate"], row["exposed"], row["label_view"]) == (0.25, True, 1)
    left_out = made(None)
    assert left_out.rows.num_rows == 0
    assert dict(left_out.fates) == {("view", "no_change"): 1}


@pytest.mark.parametrize(("rate", "label"), [(0.25, 0), (None, None)])
def test_an_exposure_that_was_left_out_with_its_sample_is_not_known(
    rate: float | None, label: int | None
) -> None:
    """A negative that sampling keeps can only have been left out as unexposed."""
    kinds = [VIEW, CLICK]
    actions = late({"features": json.dumps(SHOWN)})
    made = corrections(table(kinds), actions, kinds, exposure="view", negative_rate=lambda *_: rate)
    row = only(made)
    assert (row["label_view"], row["delay_view_ms"], row["exposed"]) == (label, None, True)
    assert (row["label_click"], row["sampling_rate"]) == (1, 1.0)


def test_features_of_another_type_are_named() -> None:
    actions = late({"features": json.dumps(SHOWN | {"price": "cheap"})})
    with pytest.raises(ValueError, match="'price'"):
        corrections(table([CLICK]), actions, [CLICK])


# -- a join for which nothing was late -------------------------------------------------------------

_WINDOWS = {"click": 40, "like": 25, "pay": 100, "dwell": 70}
_LABELS: Mapping[str, Aggregate] = {"click": "any", "like": "count", "pay": "sum", "dwell": "max"}
_KINDS = [ActionKind(name, _WINDOWS[name], _LABELS[name]) for name in _WINDOWS]


def _story(rng: random.Random, key: Key) -> tuple[Timeline, Timeline]:
    """The same requests and actions twice: some actions after everything has settled, and none."""
    requests, actions = [], list[Action]()
    for n in range(rng.randint(1, 5)):
        at = T + rng.choice((0, 3, 10, 60))
        items = tuple(rng.sample(("i1", "i2", "i3"), rng.randint(1, 3)))
        requests.append(Request(f"r{n}", rng.choice(("u1", "u2")), at, items))
    for n in range(rng.randint(0, 14)):
        request, kind = rng.choice(requests), rng.choice(list(_WINDOWS))
        value = rng.choice((0.1, 0.2, -3.0, 1e16))
        at = request.event_time + rng.randint(0, _WINDOWS[kind] + 20)
        named = request.request_id if key == "request_id" else None
        action = Action(f"e{n}", request.user_id, request.items[0], named, kind, value, at)
        actions += [action] * rng.choice((1, 1, 2))
    settled = T + 60 + max(_WINDOWS.values())
    events: list[Request | Action] = [*requests, *actions]
    in_time = sorted(events, key=lambda event: event.event_time)
    end = T + 1_000
    punctual = Timeline((*in_time, Watermark(settled + 200)), end)
    stragglers = rng.sample(actions, rng.randint(0, len(actions)))
    # some of the requests have settled by then, or all
    at = rng.choice((T + 100, T + 130, settled, settled + 50))
    first: list[Event] = [e for e in in_time if isinstance(e, Request) or e not in stragglers]
    some_late = (*first, Watermark(at), *stragglers, Watermark(settled + 200))
    return Timeline(some_late, end), punctual


_COPIED = ("request_id", "user_id", "item_id", "position", "event_time", "revision", "kind")


def _tables(outcome: Outcome) -> tuple[pa.Table, pa.Table]:
    rows = []
    for row in outcome.rows:
        labels = {f"label_{k}": v for k, v in row.labels.items()}
        delays = {f"delay_{k}_ms": v for k, v in row.delays.items()}
        rows.append({name: getattr(row, name) for name in _COPIED} | labels | delays)
    users = {row.request_id: row.user_id for row in outcome.rows}
    actions = []
    for action in outcome.late:
        (request_id, position), a = action.sample, action.identity
        actions.append(
            {
                "request_id": request_id,
                "user_id": users[request_id],
                "position": position,
                "request_time": action.request_time,
                "action": a.action,
                "value": a.value,
                "reason": action.reason,
                "delay_ms": action.delay,
                "event_time": a.event_time,
            }
        )
    return table(_KINDS, *rows), late(*actions)


@pytest.mark.parametrize("key", ["request_id", "user_id"])
@pytest.mark.parametrize("final_emit", ["always", "never"])
@pytest.mark.parametrize("first", [None, 0, 50])
def test_the_corrected_set_is_what_the_join_gives_when_nothing_is_late(
    key: Key, final_emit: Literal["always", "never"], first: int | None
) -> None:
    rules = Rules(key, _WINDOWS, _LABELS, horizon=2_000)
    if first is not None or final_emit == "never":
        rules = replace(
            rules, first_emit_after=first, emit_positives="on_arrival", final_emit=final_emit
        )
    rng = random.Random(2026)
    changed = 0
    for _ in range(50):
        some_late, punctual = _story(rng, key)
        told, actions = _tables(core_runner.run(some_late, rules))
        truth, none = _tables(core_runner.run(punctual, rules))
        truth = latest(truth)
        assert none.filter(pc.equal(none["reason"], "after_settle")).num_rows == 0
        whole = latest(corrected(told, actions, _KINDS))
        changed += whole["kind"].to_pylist().count("correction")
        found = {(row["request_id"], row["position"]): row for row in whole.to_pylist()}
        assert len(found) == whole.num_rows == truth.num_rows
        for row in truth.to_pylist():
            for kind in _KINDS:
                label, delay = f"label_{kind.name}", f"delay_{kind.name}_ms"
                one, near = found[row["request_id"], row["position"]], row[label]
                if kind.name == "pay":  # a sum of sums is rounded twice, at up to 14e16
                    near = pytest.approx(near, rel=1e-12, abs=64.0)
                assert one[label] == near, str(some_late)
                if final_emit == "always":  # else the last row may be of before an earlier action
                    assert one[delay] == row[delay], str(some_late)
    assert changed > 30  # else the stories say nothing


# -- the command -----------------------------------------------------------------------------------

_CONFIG = """
[actions.click]
window = "10s"
[features.price]
type = "float32"
[features.value]
type = "string"
[features.tags]
type = "list<string>"
[sources.features]
type = "files"
path = "f"
[sources.actions]
type = "files"
path = "a"
[output]
path = "out"
"""


def _output(tmp_path: Path, actions: pa.Table) -> Path:
    (tmp_path / "p.toml").write_text(_CONFIG)
    for name, rows in (
        ("samples", table([CLICK], {}, {"position": 7})),
        ("late_actions", actions),
    ):
        folder = tmp_path / "out" / name / "dt=2023-11-15" / "hr=09"
        folder.mkdir(parents=True)
        pq.write_table(rows, folder / "part-0")
        (folder / "_SUCCESS").touch()
        (folder / ".part-1.inprogress").write_bytes(b"half")
    return tmp_path / "p.toml"


def test_the_command_writes_partitions_and_never_touches_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _output(tmp_path, late({}))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    assert main(["--config", str(config)]) == 0
    out = tmp_path / "out" / "corrections" / "dt=2023-11-15" / "hr=09"
    assert [f.name for f in out.iterdir()] == [FILE]
    assert only(Corrections(pq.ParquetFile(out / FILE).read()))["label_click"] == 1
    for path, mtime in before.items():
        if "samples" in path.parts or "late_actions" in path.parts:
            assert path.stat().st_mtime_ns == mtime
    assert "1 corrections in 1 partitions" in capsys.readouterr().out

    # again, with nothing late any more: what the first run wrote goes
    pq.write_table(late(), tmp_path / "out/late_actions/dt=2023-11-15/hr=09/part-0")
    assert main(["--config", str(config)]) == 0
    assert not list(out.iterdir())


def test_the_command_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.toml").write_text(_CONFIG)
    assert main(["--config", str(tmp_path / "p.toml")]) == 2
    assert "run the job first" in capsys.readouterr().err
    assert main(["--config", str(tmp_path / "p.toml"), "--set", "output.path=s3://b/x"]) == 2
    assert "not a local folder" in capsys.readouterr().err


def test_the_table_lines_up_and_says_why(tmp_path: Path) -> None:
    report = Report(rows=12, anew=2, partitions=3)
    report.fates.update({("click", "corrected"): 1_234, ("click", "no_features"): 5})
    report.labels["click"] = 1_200
    text = io.StringIO()
    print_report(report, ["click", "purchase"], Console(file=text, width=120))
    head, click, purchase, reason, rows = (line.rstrip() for line in text.getvalue().splitlines())
    assert len(head) == len(click) == len(purchase)
    assert click.split() == ["click", "1,239", "0", "0", "1,234", "0", "5", "1,200"]
    assert "output.late_features = true" in reason
    assert rows.startswith("12 corrections")


def test_corrections_of_a_replaced_hour_go_to_its_generation(tmp_path: Path) -> None:
    """And those of the rows that were replaced are not read any more."""
    config = _output(tmp_path, late({}))
    output, hour = tmp_path / "out", "dt=2023-11-15/hr=09"
    assert main(["--config", str(config)]) == 0
    assert [file.parts[-4] for file in generations.files(output, "corrections")] == ["corrections"]
    for name in ("samples", "late_actions"):
        shutil.copytree(output / name / hour, output / "_generations/g" / name / hour)
    made = Generation(
        folder="_generations/g", first="2023-11-15T09", end="2023-11-15T10", published=""
    )
    (output / generations.POINTER).write_bytes(generations.encode([made]))
    assert generations.files(output, "corrections") == []
    assert main(["--config", str(config)]) == 0
    new = output / "_generations/g/corrections" / hour / FILE
    assert generations.files(output, "corrections") == [new]
    assert (output / "corrections" / hour / FILE).exists()
