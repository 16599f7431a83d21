"""The audit over small outputs written here: what closes, what does not, and what it says."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.pipeline import runs
from jobs.pipeline.config import Pipeline, document, load
from schemas import samples
from schemas.actions import Label
from schemas.events import ActionEvent, Origin
from schemas.labels import Tally
from schemas.sample_id import sample_id
from tools.audit.actions import label_of
from tools.audit.command import CLOSES, DOES_NOT, WRONG, audit, main
from tools.audit.report import Report
from tools.audit.samples import differs
from tools.audit.source import Reached, Record
from udfs.core.sampling import Sampling

T = 1_700_038_800_000  # 2023-11-15 09:00 UTC
PARTITION = "dt=2023-11-15/hr=09"

CONFIG = """
[join]
key = "{key}"
[actions.click]
window = "10s"
label = "any"
[actions.like]
window = "20s"
label = "count"
[features.price]
type = "float32"
required = false
[features.tags]
type = "list<string>"
required = false
[sources.features]
type = "files"
path = "features"
[sources.actions]
type = "files"
path = "actions"
[output]
path = "out"
"""


class Day:
    """Sources and an output in a folder, a line and a row at a time."""

    def __init__(self, folder: Path, key: str = "request_id") -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.key = folder, key
        # None: as far as the records go
        self.complete_until: int | None = T + 700_000
        self.lines: dict[str, list[bytes]] = {"features": [], "actions": []}
        self.rows: dict[str, list[dict[str, Any]]] = {
            "samples": [],
            "late_actions": [],
            "rejected": [],
        }

    def request(self, name: str, at: int, *items: str, user: str = "u") -> None:
        record = {
            "request_id": name,
            "user_id": user,
            "event_time": T + at,
            "items": [{"item_id": item, "features": {"price": 0.1}} for item in items],
        }
        self.lines["features"].append(json.dumps(record).encode())

    def action(
        self, name: str, request: str, at: int, item: str = "a", kind: str = "click"
    ) -> None:
        record = {
            "event_id": name,
            "request_id": request,
            "user_id": "u",
            "item_id": item,
            "action": kind,
            "event_time": T + at,
        }
        self.lines["actions"].append(json.dumps(record).encode())

    def time_passes(self) -> None:
        """A request of another user: those that come after it are late by ten minutes."""
        self.request("later", 600_000, "z", user="v")
        self.row("later", 0, "z", 600_000, user_id="v")

    def row(self, request: str, position: int, item: str, at: int, **other: Any) -> None:
        """A final row of a negative, but for what is given."""
        usual: dict[str, Any] = {
            "sample_id": sample_id(request, item, position),
            "request_id": request,
            "user_id": "u",
            "item_id": item,
            "position": position,
            "event_time": T + at,
            "price": 0.1,
            "label_click": 0,
            "label_like": 0,
            "observed_ms": 20_000,
            "sampling_rate": 1.0,
            "revision": 0,
            "kind": "final",
        }
        values = usual | other
        observed = values["observed_ms"]
        values["mature_click"] = observed >= 10_000
        values["mature_like"] = observed >= 20_000
        self.rows["samples"].append(values)

    def rejected(self, stream: str, line: int, reason: str, **other: Any) -> None:
        raw = self.lines[stream][line]
        usual = {
            "stream": stream,
            "reason": reason,
            "origin": str(self.folder / stream / "1.jsonl"),
            "offset": sum(len(x) + 1 for x in self.lines[stream][:line]),
            "record_time": T,
            "raw": raw,
        }
        self.rows["rejected"].append(usual | other)

    def pipeline(self, *overrides: str) -> Pipeline:
        text = CONFIG.format(key=self.key)
        if self.complete_until is not None:
            text += f"[end_of_input]\ncomplete_until = {self.complete_until}\n"
        (self.folder / "pipeline.toml").write_text(text)
        for stream, lines in self.lines.items():
            (self.folder / stream).mkdir(exist_ok=True)
            content = b"".join(line + b"\n" for line in lines)
            (self.folder / stream / "1.jsonl").write_bytes(content)
        pipeline = load(self.folder / "pipeline.toml", overrides)
        layouts = {
            "samples": samples.samples(pipeline.schema, pipeline.kinds),
            "late_actions": samples.LATE_ACTIONS,
            "rejected": samples.REJECTED,
        }
        for table, rows in self.rows.items():
            _write(self.folder / "out" / table / PARTITION / "part-0", layouts[table], rows)
        return pipeline

    def audit(self, *overrides: str) -> Report:
        return audit(self.pipeline(*overrides))


def _write(path: Path, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), path)


@pytest.fixture
def day(tmp_path: Path) -> Day:
    """One request of two items, one of them clicked."""
    made = Day(tmp_path)
    made.request("r1", 0, "a", "b")
    made.action("e1", "r1", 4_000)
    made.row("r1", 0, "a", 0, label_click=1, delay_click_ms=4_000)
    made.row("r1", 1, "b", 0)
    return made


def named(report: Report) -> list[tuple[str, str, str]]:
    return [(f.what, f.name, f.why) for f in report.findings]


# -- what closes -----------------------------------------------------------------------------------


def test_what_was_done_right_closes(day: Day) -> None:
    report = day.audit()
    assert report.closes, report.findings
    assert report.numbers() == {
        "requests": {"in": 1, "settled": 1, "difference": 0},
        "impressions": {"in": 2, "with rows": 2, "difference": 0},
        "actions": {"in": 1, "joined": 1, "difference": 0},
        "rows in rejected/": {"in": 0, "difference": 0},
        "rows in late_actions/": {"in": 0, "difference": 0},
        "rows in samples/": {"in": 2, "final": 2, "difference": 0},
    }


def test_hidden_names_are_not_read(day: Day) -> None:
    pipeline = day.pipeline()
    folder = day.folder / "out" / "samples" / PARTITION
    for name in (".part-1.inprogress", "_SUCCESS"):
        (folder / name).write_bytes(b"half a file")
    assert audit(pipeline).closes


def test_a_blank_line_is_no_record_and_a_last_line_needs_no_end(day: Day) -> None:
    pipeline = day.pipeline()
    path = day.folder / "actions" / "1.jsonl"
    path.write_bytes(b" \n" + path.read_bytes().removesuffix(b"\n"))
    assert audit(pipeline).closes


def test_an_id_that_was_forgotten_is_free_again(tmp_path: Path) -> None:
    """H + S = 40 s: at 40 s the first is still remembered."""
    for at, closes in ((40_000, False), (40_001, True)):
        day = Day(tmp_path)
        for time in (0, at):
            day.request("r1", time, "a")
            day.action(f"e{time}", "r1", time + 1)
            day.row("r1", 0, "a", time, label_click=1, delay_click_ms=1)
        assert day.audit().closes == closes


def test_actions_of_a_user_belong_to_the_latest_request_that_shows_the_item(tmp_path: Path) -> None:
    day = Day(tmp_path, "user_id")
    day.request("r1", 0, "a")
    day.request("r2", 5_000, "a")
    day.action("e1", "whatever", 4_999)
    day.action("e2", "whatever", 6_000)
    day.row("r1", 0, "a", 0, label_click=1, delay_click_ms=4_999)
    day.row("r2", 0, "a", 5_000, label_click=1, delay_click_ms=1_000)
    assert day.audit().closes


def test_an_earlier_request_keeps_what_a_later_one_came_too_late_for(tmp_path: Path) -> None:
    day = Day(tmp_path, "user_id")
    day.request("r1", 0, "a")
    day.time_passes()
    day.request("r2", 5_000, "a")
    day.action("e1", "whatever", 6_000)
    day.row("r1", 0, "a", 0, label_click=1, delay_click_ms=6_000)
    day.row("r2", 0, "a", 5_000)
    assert day.audit().closes


def test_too_many_ways_to_divide_actions_are_not_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before, but nothing may be tried."""
    monkeypatch.setattr("tools.audit.reassign._LOOKS", 0)
    day = Day(tmp_path, "user_id")
    day.request("r1", 0, "a")
    day.time_passes()
    day.request("r2", 5_000, "a")
    day.action("e1", "whatever", 6_000)
    day.row("r1", 0, "a", 0, label_click=1, delay_click_ms=6_000)
    day.row("r2", 0, "a", 5_000)
    report = day.audit()
    assert report.closes, report.findings
    [note] = report.notes
    assert note.startswith("2 impressions: cannot tell which of several requests")


def test_a_later_request_that_came_in_time_takes_its_actions(tmp_path: Path) -> None:
    """As before, but the order in the files says that r2 was in time."""
    day = Day(tmp_path, "user_id")
    day.request("r1", 0, "a")
    day.request("r2", 5_000, "a")
    day.action("e1", "whatever", 6_000)
    day.row("r1", 0, "a", 0, label_click=1, delay_click_ms=6_000)
    day.row("r2", 0, "a", 5_000)
    report = day.audit()
    assert [(f.what, f.name) for f in report.findings] == [
        ("row", "r1 position 0 revision 0"),
        ("action", "e1"),
    ]


# -- limits (rule 16) ------------------------------------------------------------------------------


def of_three_actions(folder: Path, *refused: int) -> Day:
    """A request with three actions, of which these were refused."""
    made = Day(folder)
    made.request("r1", 0, "a")
    for n in range(3):
        made.action(f"e{n}", "r1", 1_000 + n, kind="like")
    for n in refused:
        made.rejected("actions", n, "too_many_actions")
    count = 3 - len(refused)
    made.row("r1", 0, "a", 0, label_like=count, delay_like_ms=1_000 + (0 in refused))
    return made


def test_actions_are_refused_only_where_there_are_too_many(tmp_path: Path) -> None:
    limit = "limits.actions_per_request=2"
    for n in range(3):  # whichever came last
        assert of_three_actions(tmp_path / str(n), n).audit(limit).closes
    few = "rejected as too_many_actions, but only {} others of its key were not"
    assert named(of_three_actions(tmp_path / "a", 2).audit()) == [("action", "e2", few.format(2))]
    report = of_three_actions(tmp_path / "b", 1, 2).audit(limit)
    assert named(report) == [("action", name, few.format(1)) for name in ("e1", "e2")]


def test_a_request_with_more_actions_than_the_limit_is_named(tmp_path: Path) -> None:
    day = of_three_actions(tmp_path)
    assert day.audit("limits.actions_per_request=3").closes
    why = "3 actions are neither late nor rejected; the limit is 2"
    assert named(day.audit("limits.actions_per_request=2")) == [("request", "r1", why)]
    assert day.audit("limits.actions_per_user=2").closes  # that is not its key


def test_a_request_with_too_many_items_is_in_rejected(tmp_path: Path) -> None:
    day = Day(tmp_path)
    day.request("r1", 0, "a", "b")
    day.rejected("features", 0, "too_many_items")
    assert day.audit("limits.items_per_request=1").closes
    why = "rejected as too_many_items, but the record is good"
    assert why in [found[2] for found in named(day.audit("limits.items_per_request=2"))]


def test_a_limit_of_items_may_have_changed(tmp_path: Path) -> None:
    """Two items were too many at first, or are too many now."""
    for of_start in (1, 2):
        day = Day(tmp_path / str(of_start))
        day.request("r1", 0, "a", "b")
        day.request("r2", 1, "a", "b")
        day.rejected("features", 0, "too_many_items")
        day.row("r2", 0, "a", 1)
        day.row("r2", 1, "b", 1)
        now = f"limits.items_per_request={3 - of_start}"
        pipeline = day.pipeline(now)
        assert not audit(pipeline).closes
        text = document(day.folder / "pipeline.toml", [f"limits.items_per_request={of_start}"])
        runs.note(str(day.folder / "out"), runs.started("0" * 32, "fresh", None), text)
        assert audit(pipeline).closes


# -- why an impression has no row ------------------------------------------------------------------


def without_second_row(day: Day) -> Day:
    del day.rows["samples"][1]
    return day


def test_an_impression_without_a_row_is_missing(day: Day) -> None:
    report = without_second_row(day).audit()
    assert named(report) == [("impression", "r1 position 1", "it has no row")]
    assert report.numbers()["impressions"]["difference"] == 1


def test_unexposed_immature_and_sampled_out_are_reasons(day: Day) -> None:
    day = without_second_row(day)
    day.rows["samples"][0]["exposed"] = True
    assert day.audit("exposure.action=click").numbers()["impressions"]["unexposed"] == 1

    day.rows["samples"][0]["exposed"] = None
    seed = next(s for s in range(99) if not Sampling(s).keeps(sample_id("r1", "b", 1), 0.5))
    rate = ("sampling.rate=0.5", f"sampling.seed={seed}")
    assert day.audit(*rate).numbers()["impressions"]["sampled out"] == 1
    seed = next(s for s in range(99) if Sampling(s).keeps(sample_id("r1", "b", 1), 0.5))
    assert not day.audit("sampling.rate=0.5", f"sampling.seed={seed}").closes

    # both rows fall due to the end only: P is 0 s, that of the request
    day.complete_until = None
    del day.rows["samples"][0]
    report = day.audit("end_of_input.immature=drop")
    assert report.numbers()["impressions"]["immature"] == 2
    until = f"end_of_input.complete_until={T + 20_000}"
    assert named(day.audit("end_of_input.immature=drop", until))[0][:2] == ("request", "r1")


def test_a_positive_is_never_sampled_out(day: Day) -> None:
    del day.rows["samples"][0]
    report = day.audit("sampling.rate=0.0")
    assert {(what, name) for what, name, _ in named(report)} >= {("impression", "r1 position 0")}


def test_a_first_row_is_due_though_the_final_one_is_immature(tmp_path: Path) -> None:
    """P is 5 s: r1 was observed for longer than d, r2 not at all."""
    day = Day(tmp_path)
    day.complete_until = None
    day.request("r1", 0, "a", "b")
    day.request("r2", 5_000, "a")
    day.action("e1", "r2", 5_000)
    day.row("r1", 0, "a", 0, kind="provisional", observed_ms=1_000)
    policy = ("join.policy=defer", "emission.first_emit_after=1s", "end_of_input.immature=drop")
    report = day.audit(*policy)
    assert named(report) == [("impression", "r1 position 1", "it has no row")]
    assert report.numbers()["impressions"]["immature"] == 1


def test_what_was_taken_away_by_a_late_request_may_stay_in_an_early_row(tmp_path: Path) -> None:
    """Rule 14: with `never` there may be no later moment at which it is put right."""
    day = Day(tmp_path, "user_id")
    for name, at in (("r1", 0), ("r2", 5_000)):
        day.request(name, at, "a")
        if name == "r1":
            day.time_passes()
        clicked = {"label_click": 1, "delay_click_ms": 6_000 - at, "kind": "positive"}
        day.row(name, 0, "a", at, kind="provisional")
        day.row(name, 0, "a", at, revision=1, **clicked)
    day.action("e1", "whatever", 6_000)
    report = day.audit("join.policy=fake_negative")
    assert report.closes, report.findings
    assert report.numbers()["actions"]["joined"] == 1


def test_a_gap_in_the_revisions_is_missing_unless_it_was_sampled_out(day: Day) -> None:
    first = day.rows["samples"][0]
    first |= {"revision": 1, "kind": "final"}
    second = day.rows["samples"][1]
    second |= {"revision": 1, "kind": "final"}
    defer = ("join.policy=defer", "emission.first_emit_after=1s")
    report = day.audit(*defer)
    assert [f.why for f in report.findings] == ["revision 0 is missing"] * 2

    # of the clicked one the negative of before the click may be sampled out, and its row is there
    second["sampling_rate"] = 0.0
    names = [f.name for f in day.audit(*defer, "sampling.rate=0.0").findings]
    assert names == ["r1 position 1 revision 1"]


# -- what is wrong with a row ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"request_id": "r9"}, "no accepted request has its request_id"),
        ({"position": 2}, "there is no such impression"),
        ({"user_id": "v"}, "user_id is 'v'; it must be 'u'"),
        ({"item_id": "x"}, "item_id is 'x'; it must be 'b'"),
        ({"price": None}, "price is None; it must be 0.1"),
        ({"tags": ["x"]}, "tags is ['x']; it must be None"),
        ({"sampling_rate": 0.5}, "sampling_rate is 0.5; it must be 1"),
        ({"exposed": True}, "exposed is 1, its actions say otherwise"),
        ({"kind": "correction"}, "kind is 'correction', which the join does not write"),
        ({"label_like": 1}, "label_like is 1 with delay null; its actions: none"),
        ({"label_click": 1, "delay_click_ms": 5}, "label_click is 1 with delay 5; its actions"),
    ],
)
def test_a_row_that_is_not_what_the_source_says(day: Day, change: Any, why: str) -> None:
    day.rows["samples"][1] |= change
    report = day.audit()
    rows = [f for f in report.findings if f.what == "row"]
    assert len(rows) == 1
    assert rows[0].why.startswith(why)
    assert report.numbers()["rows in samples/"]["difference"] == 1


def test_a_row_in_another_hour(day: Day) -> None:
    pipeline = day.pipeline()
    elsewhere = day.folder / "out" / "samples" / "dt=2023-11-15/hr=10"
    (day.folder / "out" / "samples" / PARTITION).rename(elsewhere)
    assert {f.why for f in audit(pipeline).findings} == {"lies in the partition of another hour"}


def test_one_of_two_counted_actions_that_is_lost_is_named(day: Day) -> None:
    day.action("e2", "r1", 5_000, kind="like")
    day.action("e3", "r1", 6_000, kind="like")
    day.rows["samples"][0] |= {"label_like": 1, "delay_like_ms": 5_000}
    report = day.audit()
    assert [(f.what, f.name) for f in report.findings] == [("action", "e3")]
    assert report.numbers()["actions"]["difference"] == 1


# -- rejected and late -----------------------------------------------------------------------------


def test_rejected_records_close_and_those_of_nothing_do_not(day: Day) -> None:
    day.lines["actions"].append(b'{"broken')
    assert [f.what for f in day.audit().findings] == ["record"]
    day.rejected("actions", 1, "broken_json")
    assert day.audit().closes
    day.rejected("actions", 1, "broken_json")
    assert [f.why for f in day.audit().findings] == ["the record is rejected twice"]
    day.rows["rejected"][1]["offset"] += 1
    [finding] = day.audit().findings
    assert finding.why == "rejected as broken_json, but there is no such record in the source"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"reason": "wrong_type"}, "rejected as wrong_type, but the record is broken_json"),
        ({"raw": b"{"}, "its raw bytes are not those of the record"),
    ],
)
def test_a_rejected_row_that_says_something_else(day: Day, change: Any, why: str) -> None:
    day.lines["actions"].append(b'{"broken')
    day.rejected("actions", 1, **{"reason": "broken_json"} | change)
    assert [f.why for f in day.audit().findings] == [why]


def test_a_good_record_that_is_rejected_as_bad(day: Day) -> None:
    day.action("e2", "r1", 5_000)
    day.rejected("actions", 1, "broken_json")
    [finding] = day.audit().findings
    assert finding.why == "rejected as broken_json, but the record is good"


def test_a_duplicate_of_nothing_is_none(day: Day) -> None:
    day.action("e2", "r1", 5_000)
    day.rejected("actions", 1, "duplicate_action")
    [finding] = day.audit().findings
    assert (finding.what, finding.name) == ("action", "e2")
    day.lines["actions"][1] = day.lines["actions"][0]
    day.rows["rejected"].clear()
    [finding] = day.audit().findings
    assert finding.why == "a copy of actions/1.jsonl offset 0, and not in rejected/"
    day.rejected("actions", 1, "duplicate_action")
    assert day.audit().closes


def test_late_actions_close_and_what_they_say_is_checked(day: Day) -> None:
    day.action("e2", "r1", 12_000)
    late = {
        "sample_id": sample_id("r1", "a", 0),
        "request_id": "r1",
        "user_id": "u",
        "item_id": "a",
        "position": 0,
        "request_time": T,
        "event_id": "e2",
        "action": "click",
        "event_time": T + 12_000,
        "delay_ms": 12_000,
        "reason": "outside_window",
    }
    [finding] = day.audit().findings
    assert finding.name == "e2"
    assert finding.why.endswith("no sample can hold it")
    day.rows["late_actions"].append(late)
    assert day.audit().numbers()["actions"]["late: outside_window"] == 1
    for change in ({"reason": "after_settle"}, {"delay_ms": 1}, {"position": 1}, {"sample_id": 1}):
        day.rows["late_actions"][0] = late | change
        assert [f.what for f in day.audit().findings] == ["late row"], change


# -- pieces ----------------------------------------------------------------------------------------


def valued(at: int, value: float) -> ActionEvent:
    return ActionEvent(None, "u", "a", "r", "k", value, at, Origin("", None, 0), b"")


@pytest.mark.parametrize(
    ("label", "value"), [("any", 1.0), ("count", 3.0), ("sum", 0.6), ("max", 0.3), ("last", 0.2)]
)
def test_labels(label: Label, value: float) -> None:
    assert label_of(label, [valued(2, 0.1), valued(2, 0.2), valued(1, 0.3)]) == value


@given(
    st.sampled_from(["any", "count", "sum", "max", "last"]),
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.floats(allow_nan=False, allow_infinity=False)
            | st.sampled_from([sys.float_info.max, -sys.float_info.max, 1e308, 5e-324]),
        )
    ),
)
def test_labels_are_those_of_the_join(label: Label, values: list[tuple[int, float]]) -> None:
    """Both are written apart on purpose, so they are compared: at all extremes, neither raises."""
    made = Tally(label)
    for time, value in values:
        made.add(time, value)
    assert label_of(label, [valued(time, value) for time, value in values]) == made.value


def test_arrays_differ_by_value_and_null_is_null() -> None:
    found = pa.array([[1], [1], None, [], [1, None], [2, 3]], pa.list_(pa.int64()))
    other = pa.array([[1], [2], None, None, [1, None], [2]], pa.list_(pa.int64()))
    assert differs(found, other).tolist() == [False, True, False, True, False, True]
    assert differs(pa.array([1.5, None, 2.0]), pa.array([1.5, 0.0, None])).tolist() == [
        False,
        True,
        True,
    ]


def test_what_must_have_been_read_follows_from_the_watermark() -> None:
    reached = Reached(out_of_orderness=10)
    for offset, time in enumerate((100, 120, 115, 131, 140)):
        reached.read(Record(b"", Origin("t", 0, offset), time))
    reached.read(Record(b"", Origin("t", 1, 0), 100))
    # partitions of different topics have the same numbers
    for offset, time in enumerate((100, 150)):
        reached.read(Record(b"", Origin("u", 0, offset), time))
    # a watermark of 120 takes a timestamp of more than 130 in every partition that is not idle
    assert reached.read_up_to(120) == {("t", 0): 3, ("u", 0): 1}
    assert reached.read_up_to(200) == {}


# -- the command -----------------------------------------------------------------------------------


def test_exit_codes_and_what_is_said(day: Day, capsys: pytest.CaptureFixture[str]) -> None:
    day.pipeline()
    config = str(day.folder / "pipeline.toml")
    assert main(["--config", config]) == CLOSES
    assert "Every record is accounted for." in capsys.readouterr().out

    for position in range(2):
        day.rows["samples"][position]["price"] = 7.0
    day.pipeline()
    assert main(["--config", config, "--show", "1"]) == DOES_NOT
    out = capsys.readouterr().out
    assert "r1 position 0" in out
    assert "r1 position 1" not in out
    assert "and 1 more; --show 2 lists all" in out

    assert main(["--config", config, "--set", "output.path=nowhere"]) == WRONG
    assert "there is no such folder; run the job first" in capsys.readouterr().err
    assert main(["--config", config, "--set", "sources.actions.path=nowhere"]) == WRONG
    assert "no event files in" in capsys.readouterr().err
    (day.folder / "out" / "samples" / PARTITION / "part-1").write_bytes(b"no Parquet")
    assert main(["--config", config]) == WRONG
    assert "part-1 cannot be read" in capsys.readouterr().err


def test_a_start_that_is_not_known_is_asked_for(day: Day) -> None:
    (day.folder / "out").mkdir()
    kafka = CONFIG.format(key="request_id")
    for stream in ("features", "actions"):
        kafka = kafka.replace(
            f'type = "files"\npath = "{stream}"',
            f'type = "kafka"\ntopic = "{stream}"\nbootstrap_servers = "127.0.0.1:1"\n'
            'start = "latest"',
        )
    (day.folder / "kafka.toml").write_text(kafka)
    assert main(["--config", str(day.folder / "kafka.toml")]) == WRONG
