"""The rows that files of late actions add, one after the other; and all of them together."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from corrections.apply import corrected, corrections
from corrections.versions import latest
from schemas.actions import ActionKind
from schemas.features import Feature, FeatureSchema, FeatureType
from schemas.sample_id import sample_id
from schemas.samples import LATE_ACTIONS, samples
from trainer.reading.files import ReadError
from trainer.reading.late_actions import CorrectionRows, correction_rows
from trainer.reading.ledger import Ledger

T = 1_700_038_800_000  # 2023-11-15 09:00 UTC
HOUR, NEXT_HOUR = "dt=2023-11-15/hr=09", "dt=2023-11-15/hr=10"
KINDS = (
    ActionKind("click", 10_000),
    ActionKind("like", 10_000, "count"),
    ActionKind("buy", 60_000, "sum"),
    ActionKind("rate", 60_000, "max"),
)
NAMES = [kind.name for kind in KINDS]
FEATURES = FeatureSchema.of([Feature("price", FeatureType.parse("float64"))])
LAYOUT = samples(FEATURES, KINDS)
EMPTY = {"click": 0, "like": 0, "buy": 0.0, "rate": None}


def sample(request: str, **of: Any) -> dict[str, Any]:
    """A final row without actions, but for what is said."""
    row: dict[str, Any] = {
        "sample_id": sample_id(request, "i", 0),
        "request_id": request,
        "user_id": "u",
        "item_id": "i",
        "position": 0,
        "event_time": T,
        "price": 2.5,
        "observed_ms": 60_000,
        "exposed": None,
        "sampling_rate": 1.0,
        "revision": 0,
        "kind": "final",
    }
    for kind in NAMES:
        row |= {f"label_{kind}": EMPTY[kind], f"delay_{kind}_ms": None, f"mature_{kind}": True}
    return row | of


def late(request: str, action: str = "click", delay: int = 5_000, **of: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "sample_id": sample_id(request, "i", 0),
        "request_id": request,
        "user_id": "u",
        "item_id": "i",
        "position": 0,
        "request_time": T,
        "event_id": None,
        "action": action,
        "value": None,
        "event_time": T + delay,
        "delay_ms": delay,
        "reason": "after_settle",
        "features": None,
    }
    return row | of


class Output:
    """What a job writes, file by file; each is found before the next one is there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ledger = Ledger(LAYOUT)

    def samples(self, *rows: Mapping[str, Any], hour: str = HOUR) -> None:
        self._write("samples", hour, pa.Table.from_pylist(list(rows), schema=LAYOUT))

    def late(self, *rows: Mapping[str, Any], hour: str = HOUR) -> None:
        self._write("late_actions", hour, pa.Table.from_pylist(list(rows), schema=LATE_ACTIONS))

    def _write(self, stream: str, hour: str, table: pa.Table) -> None:
        folder = self.root / stream / hour
        folder.mkdir(parents=True, exist_ok=True)
        # several row groups, so that some have nothing that is looked for
        pq.write_table(table, folder / f"part-{len(self.ledger.entries)}", row_group_size=2)
        assert len(self.ledger.discover(self.root)) == 1

    def corrections(self, at: int, **settings: Any) -> CorrectionRows:
        entries = self.ledger.entries
        return correction_rows(self.root, entries[:at], entries[at], LAYOUT, KINDS, **settings)

    def last(self, **settings: Any) -> CorrectionRows:
        return self.corrections(len(self.ledger.entries) - 1, **settings)

    def table(self, stream: str) -> pa.Table:
        paths = [e.path for e in self.ledger.entries if e.stream == stream]
        empty = (LAYOUT if stream == "samples" else LATE_ACTIONS).empty_table()
        files = [pq.read_table(self.root / path, partitioning=None) for path in paths]
        return pa.concat_tables([empty, *files])


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path)


def said(made: CorrectionRows) -> list[tuple[str, list[str]]]:
    """By row: the request, and the kinds that have happened only now."""
    requests = made.rows["request_id"].to_pylist()
    assert made.changed.shape == (len(requests), len(KINDS))
    assert made.rows.schema == LAYOUT
    kinds = [[k for k, is_new in zip(NAMES, row, strict=True) if is_new] for row in made.changed]
    return list(zip(requests, kinds, strict=True))


def test_a_late_click_is_a_row_of_its_sample(output: Output) -> None:
    output.samples(*(sample(f"r{n}") for n in range(7)))
    output.late(late("r3"))
    made = output.last()
    assert said(made) == [("r3", ["click"])]
    (row,) = made.rows.to_pylist()
    written = sample("r3", label_click=1, delay_click_ms=5_000, revision=1, kind="correction")
    assert row == written
    assert made.fates == Counter({("click", "corrected"): 1})


def test_the_next_action_of_the_sample_in_a_later_file(output: Output) -> None:
    output.samples(sample("r1"), sample("r2"))
    output.late(late("r1"), late("r2"))
    output.late(late("r1", "buy", 40_000, value=3.0))
    made = output.last()
    # the click was told before, and is in the row still; of r2 nothing is new
    assert said(made) == [("r1", ["buy"])]
    assert made.rows["label_click"].to_pylist() == [1]
    assert made.fates == Counter({("buy", "corrected"): 1})


def test_more_of_a_kind_makes_a_row_but_nothing_new(output: Output) -> None:
    output.samples(sample("r1", label_like=1, delay_like_ms=10), sample("r2"))
    output.late(late("r1", "like"), late("r2", "like"))
    assert said(output.last()) == [("r1", []), ("r2", ["like"])]
    output.late(late("r1", "like"), late("r2", "like"))
    made = output.last()
    assert said(made) == [("r1", []), ("r2", [])]
    assert made.rows["label_like"].to_pylist() == [3, 2]


def test_what_changes_no_label_makes_no_row(output: Output) -> None:
    output.samples(sample("r1", label_click=1, delay_click_ms=10))
    output.late(late("r1"), late("r1", reason="outside_window"), late("r1", "gone"))
    made = output.last()
    assert said(made) == []
    assert made.fates == Counter(
        {("click", "no_change"): 1, ("click", "outside_window"): 1, ("gone", "unknown_kind"): 1}
    )


def test_a_second_click_in_a_later_file_makes_no_second_row(output: Output) -> None:
    output.samples(sample("r1"), sample("r2"))
    output.late(late("r1"))
    output.late(late("r1", delay=6_000), late("r2"))
    assert said(output.last()) == [("r2", ["click"])]


def test_it_follows_from_entries_before_it_in_its_hour_only(output: Output) -> None:
    output.samples(sample("r1"))
    output.samples(sample("r2"), hour=NEXT_HOUR)
    output.late(late("r1"), late("r2"), late("r3"))
    output.samples(sample("r3"))
    output.late(late("r1"), late("r2", delay=7_000), hour=NEXT_HOUR)
    assert said(output.corrections(2, anew=False)) == [("r1", ["click"])]
    assert output.corrections(2, anew=False).fates["click", "not_written"] == 2
    assert said(output.corrections(4, anew=False)) == [("r2", ["click"])]


def test_the_last_revision_is_corrected(output: Output) -> None:
    output.samples(sample("r1", kind="provisional", observed_ms=0))
    acted = {"label_like": 1, "delay_like_ms": 20}
    output.samples(sample("r1", kind="final", revision=2, **acted))
    output.samples(sample("r1", kind="positive", revision=1, observed_ms=20, **acted))
    output.late(late("r1"))
    (row,) = output.last().rows.to_pylist()
    assert (row["revision"], row["label_like"], row["label_click"]) == (3, 1, 1)


def test_a_sample_that_was_left_out_is_made_anew_once(output: Output) -> None:
    output.samples(sample("r1"))
    features = json.dumps({"price": 7.5})
    output.late(late("r9", features=features), late("r8"))
    made = output.last()
    assert said(made) == [("r9", ["click"])]
    assert made.rows["price"].to_pylist() == [7.5]
    assert made.fates == Counter({("click", "made_anew"): 1, ("click", "no_features"): 1})
    output.late(late("r9", features=features), late("r9", "buy", value=1.0, features=features))
    made = output.last()
    assert said(made) == [("r9", ["buy"])]
    assert said(output.last(anew=False)) == []


def test_a_rate_of_negatives_is_handed_on(output: Output) -> None:
    """A late exposure of a sample that is a negative still, and is not to be written."""
    output.late(late("r1", features=json.dumps({"price": 7.5})))
    assert said(output.last(exposure="click", negative_rate=lambda _id, _features: None)) == []
    made = output.last(exposure="click", negative_rate=lambda _id, features: features["price"] / 10)
    assert made.rows["sampling_rate"].to_pylist() == [0.75]


def test_samples_with_one_id_are_told_apart(output: Output) -> None:
    output.samples(sample("r1"), sample("r1", user_id="other"))
    output.late(late("r1", user_id="other"))
    assert output.last().rows["user_id"].to_pylist() == ["other"]


def test_no_late_actions_and_no_samples(output: Output) -> None:
    output.late()
    assert said(output.last()) == []
    output.late(late("r1"))
    assert said(output.last()) == []


def test_a_file_before_it_that_is_gone_is_an_error(output: Output) -> None:
    output.samples(sample("r1"))
    output.late(late("r1"))
    (output.root / output.ledger.entries[0].path).unlink()
    with pytest.raises(ReadError, match="part-0: is not there any more"):
        output.last()


def _acts(rng: random.Random, request: str, carries: bool) -> dict[str, Any]:
    kind = rng.choice(NAMES)
    return late(
        request,
        kind,
        rng.randrange(10_000),
        value=float(rng.randrange(5)),
        reason=rng.choice(["after_settle"] * 4 + ["outside_window"]),
        features=json.dumps({"price": 1.5}) if carries else None,
    )


def _by_name(tables: Iterable[pa.Table]) -> dict[str, dict[str, Any]]:
    """The last row of each sample."""
    return {row["request_id"]: row for table in tables for row in table.to_pylist()}


@pytest.mark.parametrize("seed", range(25))
def test_all_files_together_say_what_one_correction_of_all_says(tmp_path: Path, seed: int) -> None:
    """Labels, delays and revisions; what became of the actions; which kinds are new, once each."""
    rng = random.Random(seed)
    output = Output(tmp_path)
    carries = rng.random() < 0.5
    written: list[str] = []
    for look in range(rng.randrange(2, 9)):
        if not written or rng.random() < 0.5:
            made = [f"r{look}.{n}" for n in range(rng.randrange(1, 6))]
            rows = []
            for request in made:
                acted = rng.random() < 0.4
                row = sample(request, sampling_rate=1.0 if acted else 0.5)
                if acted:
                    row |= {"label_click": 1, "delay_click_ms": rng.randrange(10_000)}
                if acted and rng.random() < 0.5:
                    row |= {"label_rate": 2.0, "delay_rate_ms": rng.randrange(10_000)}
                rows.append(row)
            output.samples(*rows)
            written += made
        requests = [*written, "left out 1", "left out 2"]
        actions = [_acts(rng, rng.choice(requests), carries) for _ in range(rng.randrange(5))]
        output.late(*actions)
    steps = [
        output.corrections(n)
        for n, e in enumerate(output.ledger.entries)
        if e.stream == "late_actions"
    ]
    everything, actions = output.table("samples"), output.table("late_actions")
    expected = _by_name([latest(corrected(everything, actions, KINDS))])
    assert _by_name([everything, *(step.rows for step in steps)]) == expected

    fates: Counter[Any] = Counter()
    for step in steps:
        fates.update(step.fates)
    whole = corrections(everything, actions, KINDS)
    assert {fate: n for fate, n in fates.items() if n} == dict(whole.fates)

    news = Counter(name for step in steps for row in said(step) for name in row[1])
    for kind in NAMES:
        column = f"delay_{kind}_ms"
        had = pc.count(everything[column]).as_py()
        has = sum(row[column] is not None for row in expected.values())
        assert news[kind] == has - had
