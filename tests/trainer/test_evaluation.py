"""The sums of progressive validation, and what is made of them."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.effort import examples
from trainer.evaluation import page, plots
from trainer.evaluation.counting import BINS
from trainer.evaluation.measures import Measures
from trainer.evaluation.tally import Layout, Metric, Tally
from trainer.evaluation.terminal import print_headline
from trainer.evaluation.write import METRICS, SCHEMA, as_table, write_metrics

HOUR = 3_600_000
LAYOUT = Layout(("click", "like"), HOUR, ("country", "place"), ("user", "item"), cap=4)


class Rows(NamedTuple):
    """What `Tally.add` takes."""

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    times: npt.NDArray[np.int64]
    slices: npt.NDArray[np.int32]
    present: npt.NDArray[np.uint8]
    unseen: npt.NDArray[np.uint8]

    def only(self, rows: Any) -> Rows:
        return Rows(*(array[rows] for array in self))


def made_up(seed: int, rows: int = 2_000, windows: int = 3, layout: Layout = LAYOUT) -> Rows:
    random = np.random.default_rng(seed)
    shape = (rows, len(layout.actions))
    logits = random.normal(-1.5, 1.2, shape).astype(np.float32)
    chance = 1 / (1 + np.exp(-logits * 0.8))
    present = random.integers(0, 2, (rows, len(layout.slots)), np.uint8)
    return Rows(
        logits,
        (random.random(shape) < chance).astype(np.float32),
        random.choice([0.0, 1.0, 2.5], shape).astype(np.float32),
        random.integers(0, windows * HOUR, rows),
        random.integers(-1, 7, (rows, len(layout.columns))).astype(np.int32),
        present,
        present * random.integers(0, 2, present.shape, np.uint8),
    )


def tallied(*batches: Rows, layout: Layout = LAYOUT) -> Tally:
    tally = Tally(layout)
    for batch in batches:
        tally.add(*batch)
    return tally


def simple(
    rows: Sequence[tuple[float, float, float]], time: int = 0, action: str = "click"
) -> Tally:
    """A tally of one action and nothing else, of rows (logit, label, weight)."""
    tally = Tally(Layout((action,), HOUR))
    logits, labels, weights = (
        np.array(part, np.float32)[:, None] for part in zip(*rows, strict=True)
    )
    times = np.full(len(rows), time)
    tally.add(logits, labels, weights, times, np.empty((len(rows), 0), np.int32))
    return tally


def overall(tally: Tally) -> Measures:
    return next(m.measures for m in tally.whole() if m.slice == "all")


def same(one: Sequence[Metric], other: Sequence[Metric]) -> None:
    """Equal but for the order of additions."""
    close(flat(one), flat(other))


def close(one: Sequence[tuple[Any, ...]], other: Sequence[tuple[Any, ...]]) -> None:
    assert [m[:4] for m in one] == [m[:4] for m in other]
    for mine, its in zip(one, other, strict=True):
        for value, expected in zip(mine[4:], its[4:], strict=True):
            if expected is None:
                assert value is None
            else:
                assert value == pytest.approx(expected, rel=1e-12)


def flat(metrics: Sequence[Metric]) -> list[tuple[Any, ...]]:
    names = Measures.__struct_fields__
    return [
        (m.window, m.action, m.slice, m.value, *(getattr(m.measures, name) for name in names))
        for m in metrics
    ]


def reference(rows: Rows, action: int, inside: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """The measures by scikit-learn."""
    from sklearn.metrics import log_loss, roc_auc_score

    inside = inside & (rows.weights[:, action] > 0)
    label, weight = rows.labels[inside, action], rows.weights[inside, action].astype(np.float64)
    prediction = 1 / (1 + np.exp(-rows.logits[inside, action].astype(np.float64)))
    ctr = float(np.average(label, weights=weight))
    loss = float(log_loss(label, prediction, sample_weight=weight, labels=[0, 1]))
    constant = float(log_loss(label, np.full(len(label), ctr), sample_weight=weight))
    return {
        "rows": int(inside.sum()),
        "weight": weight.sum(),
        "ctr": ctr,
        "prediction": np.average(prediction, weights=weight),
        "log_loss": loss,
        "normalized_entropy": loss / constant,
        "calibration": (prediction * weight).sum() / (label * weight).sum(),
        "auc": roc_auc_score(label, prediction, sample_weight=weight),
    }


def slice_of(rows: Rows, column: int, value: str) -> Any:
    number = rows.slices[:, column]
    if value == "(missing)":
        return number < 0
    if value == "(other)":
        return number >= LAYOUT.cap
    return number == ["de", "us", "2", "3"].index(value)


def test_every_metric_is_that_of_scikit_learn() -> None:
    rows = made_up(1, rows=20_000)
    metrics = tallied(rows).metrics({"country": ["de", "us"], "place": ["de", "us"]})
    # all, and missing, four values and other for both columns; present and unseen of two slots
    assert len(metrics) == 3 * 2 * (1 + 2 * 6 + 2 * 2)
    for m in metrics:
        assert m.window is not None
        inside = (rows.times >= m.window) & (rows.times < m.window + HOUR)
        if m.slice in LAYOUT.columns:
            inside &= slice_of(rows, LAYOUT.columns.index(m.slice), m.value)
        elif m.slice != "all":
            flags = rows.present if m.value == "present" else rows.unseen
            inside &= flags[:, LAYOUT.slots.index(m.slice.removeprefix("slot:"))] > 0
        expected = reference(rows, LAYOUT.actions.index(m.action), inside)
        auc = expected.pop("auc")
        for name, value in expected.items():
            assert getattr(m.measures, name) == pytest.approx(value, rel=1e-6), (m, name)
        if m.slice.startswith("slot:"):
            assert m.measures.auc is None
        else:
            assert m.measures.auc == pytest.approx(auc, abs=2e-3)


@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0, 12.0])
def test_the_auc_from_the_histogram_is_close(spread: float) -> None:
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(3)
    logit = random.normal(-3, spread, 50_000).astype(np.float32)
    label = (random.random(50_000) < 1 / (1 + np.exp(1 - (logit + 3) / spread))).astype(np.float32)
    tally = simple(list(zip(logit.tolist(), label.tolist(), [1.0] * 50_000, strict=True)))
    assert overall(tally).auc == pytest.approx(roc_auc_score(label, logit), abs=2e-3)


def test_by_hand() -> None:
    # predictions 1/2, 1/2, 3/4; labels 1, 0, 1; the last counts twice
    got = overall(simple([(0, 1, 1), (0, 0, 1), (math.log(3), 1, 2)]))
    assert (got.rows, got.weight, got.ctr) == (3, 4.0, 0.75)
    assert got.prediction == pytest.approx(2.5 / 4)
    loss = (2 * math.log(2) + 2 * math.log(4 / 3)) / 4
    assert got.log_loss == pytest.approx(loss)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert got.normalized_entropy == pytest.approx(loss / entropy)
    assert got.calibration == pytest.approx(2.5 / 3)
    # of the positives' weight 3, 2 are above the negative, and 1 is level with it
    assert got.auc == pytest.approx((2 + 0.5) / 3)


def test_always_the_mean_has_a_normalised_entropy_of_one() -> None:
    logit = math.log(0.2 / 0.8)
    got = overall(simple([(logit, 1, 1), *[(logit, 0, 1)] * 4]))
    assert got.normalized_entropy == pytest.approx(1.0)
    assert got.calibration == pytest.approx(1.0)
    assert got.auc == 0.5


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_of_one_class_there_is_no_auc(label: float) -> None:
    got = overall(simple([(0.3, label, 1), (-0.2, label, 1)]))
    assert (got.ctr, got.auc, got.normalized_entropy) == (label, None, None)
    assert (got.calibration is None) == (label == 0.0)


def test_large_logits_lose_nothing() -> None:
    got = overall(simple([(90, 1, 1), (-90, 0, 1)]))
    assert got.log_loss == pytest.approx(math.exp(-90), rel=1e-9)
    assert got.auc == 1.0
    assert overall(simple([(90, 0, 1), (-80, 1, 1)])).log_loss == 85.0
    assert overall(simple([(3e38, 0, 1)])).log_loss == pytest.approx(3e38)


def test_weight_zero_is_not_evaluated() -> None:
    assert simple([(1, 1, 0)]).metrics() == []
    assert simple([(1, 1, 0)]).windows == []
    # not even looked at: such a row may have no label and no prediction
    assert overall(simple([(math.nan, math.nan, 0), (1, 0, 1)])).rows == 1


@pytest.mark.parametrize(
    "row",
    [
        (math.nan, 1, 1),
        (math.inf, 1, 1),
        (0, 2, 1),
        (0, -1, 1),
        (0, math.nan, 1),
        (0, 1, -1),
        (0, 1, math.inf),
        (0, 1, math.nan),
    ],
)
def test_what_cannot_be_evaluated_is_refused_and_counts_nothing(
    row: tuple[float, float, float],
) -> None:
    tally = simple([(1.0, 1.0, 1.0)])
    before = tally.encode()
    logit, label, weight = (np.array([[1], [value]], np.float32) for value in row)
    logit[0] = label[0] = weight[0] = 1
    with pytest.raises(ValueError, match="row 1 cannot be evaluated for click"):
        tally.add(logit, label, weight, np.zeros(2, np.int64), np.empty((2, 0), np.int32))
    assert tally.encode() == before


@pytest.mark.parametrize("field", Rows._fields)
def test_a_shape_that_does_not_fit_is_refused(field: str) -> None:
    rows = made_up(0, rows=4)
    wrong = rows._replace(**{field: getattr(rows, field)[:3]})
    with pytest.raises(ValueError, match="expected, and not"):
        Tally(LAYOUT).add(*wrong)


def test_present_without_unseen_is_refused() -> None:
    with pytest.raises(ValueError, match="go together"):
        Tally(LAYOUT).add(*made_up(0, rows=4)[:6])


def test_windows_are_of_event_time() -> None:
    tally = Tally(Layout(("click",), HOUR))
    times = np.array([HOUR, 0, HOUR - 1, -1, 3 * HOUR], np.int64)
    ones = np.ones((5, 1), np.float32)
    logits = np.arange(1, 6, dtype=np.float32).reshape(5, 1)
    tally.add(logits, ones, ones, times, np.empty((5, 0), np.int32))
    assert tally.windows == [-HOUR, 0, HOUR, 3 * HOUR]
    assert [(m.window, m.measures.rows) for m in tally.metrics()] == [
        (-HOUR, 1),
        (0, 2),
        (HOUR, 1),
        (3 * HOUR, 1),
    ]


def test_many_windows_in_a_batch_and_a_row_at_a_time() -> None:
    rows = made_up(5, rows=300, windows=200)
    at_once = tallied(rows)
    same(tallied(*(rows.only([n]) for n in range(300))).metrics(), at_once.metrics())
    evaluated = rows.times[(rows.weights > 0).any(axis=1)].tolist()
    assert at_once.windows == sorted({time - time % HOUR for time in evaluated})


def test_metrics_are_in_order_also_where_slots_are_not_known() -> None:
    first, second = made_up(15, windows=1), made_up(16, windows=1)
    tally = tallied(second._replace(times=second.times + HOUR))
    tally.add(*first[:5])
    order = [(m.window, LAYOUT.actions.index(m.action)) for m in tally.metrics()]
    assert order == sorted(order)
    assert {m.window for m in tally.metrics() if m.slice == "slot:user"} == {HOUR}


def test_read_only_and_strided_arrays_are_taken() -> None:
    rows = made_up(6, rows=50)
    strided: list[Any] = [np.asfortranarray(array) for array in rows]
    frozen = Rows(*strided)
    for array in frozen:
        array.flags.writeable = False
    assert tallied(frozen).encode() == tallied(rows).encode()


def test_an_empty_batch_counts_nothing() -> None:
    tally = tallied(made_up(0, rows=0))
    assert tally.metrics() == tally.whole() == []
    assert Tally.decode(tally.encode()).metrics() == []


@settings(max_examples=examples(25), deadline=None)
@given(st.lists(st.integers(0, 120), min_size=1, max_size=5), st.integers(0, 1_000))
def test_merged_in_any_order_is_all_at_once(cuts: list[int], seed: int) -> None:
    rows = made_up(seed, rows=120)
    parts = np.split(np.arange(120), sorted(cuts))
    tallies = [tallied(rows.only(part)) for part in parts]
    at_once = tallied(rows)

    merged, by_wire = Tally(LAYOUT), Tally(LAYOUT)
    for tally in tallies[::-1]:
        merged.merge(tally)
        by_wire.merge_encoded(tally.encode())
    assert merged.encode() == by_wire.encode()
    same(merged.metrics(), at_once.metrics())
    same(merged.whole(), at_once.whole())
    for action in LAYOUT.actions:
        assert np.allclose(merged.histogram(action), at_once.histogram(action))


def test_the_whole_run_is_as_one_window() -> None:
    rows = made_up(8)
    one = rows._replace(times=rows.times * 0)
    expected = [(None, *m[1:]) for m in flat(tallied(one).metrics())]
    close(flat(tallied(rows).whole()), expected)


def test_encoded_and_decoded_is_the_same() -> None:
    tally = tallied(made_up(9))
    again = Tally.decode(tally.encode())
    assert again.layout == LAYOUT
    assert again.metrics() == tally.metrics()
    assert again.encode() == tally.encode()
    # and goes on as the other does
    more = made_up(10)
    again.add(*more)
    tally.add(*more)
    assert again.metrics() == tally.metrics()


def test_a_small_batch_makes_a_small_message() -> None:
    assert len(tallied(made_up(0, rows=1)).encode()) < 1_000
    dense = len(LAYOUT.actions) * 13 * 2 * BINS * 8
    assert len(tallied(made_up(0, rows=100, windows=1)).encode()) < dense / 20


def test_other_layouts_and_other_bytes_are_refused() -> None:
    mine = Tally(Layout(("click",), HOUR))
    other = Tally(Layout(("like",), HOUR))
    with pytest.raises(ValueError, match="cannot add up"):
        mine.merge(other)
    with pytest.raises(ValueError, match="cannot add up"):
        mine.merge_encoded(other.encode())
    with pytest.raises(ValueError, match="format 9"):
        Tally.decode(b"\x95\x09" + mine.encode()[2:])
    with pytest.raises(ValueError, match="truncated"):
        Tally.decode(mine.encode()[:-1])


@pytest.mark.parametrize(
    ("columns", "slots", "window_ms"),
    [
        (("all",), (), 1),
        (("a", "a"), (), 1),
        ((), ("a", "a"), 1),
        (("slot:a",), ("a",), 1),
        ((), (), 0),
    ],
)
def test_layouts_that_mean_two_things_are_refused(
    columns: tuple[str, ...], slots: tuple[str, ...], window_ms: int
) -> None:
    with pytest.raises(ValueError, match=r"not distinct|at least 1"):
        Layout(("click",), window_ms, columns, slots)


def test_the_parquet_has_a_row_a_metric(tmp_path: Path) -> None:
    tally = tallied(made_up(11))
    labels = {"country": ["de"]}
    path = write_metrics(tally, tmp_path, labels)
    write_metrics(tally, tmp_path, labels)  # replaces
    assert path == tmp_path / METRICS
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    table = pq.read_table(path)
    assert table.schema.equals(SCHEMA)
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert rows == [(m[0], HOUR, *m[1:]) for m in flat(tally.metrics(labels))]
    assert table.filter(table["slice"].to_numpy() == "country")["value"].unique().to_pylist() == [
        *("(missing)", "de", "1", "2", "3", "(other)"),
    ]
    assert as_table(Tally(LAYOUT)).schema.equals(SCHEMA)


def render(tally: Tally, **labels: list[str]) -> str:
    with warnings.catch_warnings():  # of matplotlib: a scale without data, ticks that are the same
        warnings.simplefilter("error")
        return page.render(tally, [("samples/s", "41,200"), ("a & b", "<c>")], "Run <1>", labels)


@pytest.mark.parametrize("windows", [0, 1, 2, 3, 60])
def test_the_page_stands_for_itself(windows: int) -> None:
    rows = made_up(12, rows=3_000 if windows else 0, windows=max(windows, 1))
    html = render(tallied(rows), country=["d<e"])
    assert html.startswith("<!doctype html>")
    for outside in ("<script", "<link", "@import", "src=", "http:", "https:"):
        # xmlns are names, which nobody fetches
        assert outside not in re.sub(r'xmlns(:\w+)?="[^"]+"', "", html)
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    light, dark = (set(re.findall(r"(--[\w-]+):", part)) for part in html.split("@media")[:2])
    assert used <= light
    assert light == dark
    assert not re.search(r"#0[1-3a]0[0-9]{3}", html)  # a stand-in for a colour
    assert "Run &lt;1&gt;" in html
    assert "a &amp; b" in html
    assert ("No row was evaluated" in html) == (windows == 0)
    assert html.count("<svg viewBox=") == (6 + 2 if windows else 0)  # plots, and the legend
    assert ("Metrics of the last window" in html) == (windows > 1)
    if windows:
        assert "d&lt;e" in html
        assert "d<e" not in html


def test_the_page_tells_the_numbers() -> None:
    tally = simple([(0, 1, 1), (0, 0, 1), (math.log(3), 1, 2)], time=5 * HOUR)
    tally.merge(simple([(math.log(9), 1, 1), (math.log(9), 0, 3)], time=7 * HOUR))
    html = render(tally)
    assert "2 windows of 1 h, event times from 1970-01-01 05:00 to 1970-01-01 08:00 UTC" in html
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
    heads = [row[:4] for row in cells if row[:1] == ["click"]]
    assert heads == [["click", "5", "50.000%", "76.250%"], ["click", "2", "25.000%", "90.000%"]]


def test_slots_by_the_page() -> None:
    tally = Tally(Layout(("click",), HOUR, slots=("user", "never")))
    logits = np.array([[0], [0], [math.log(3)], [math.log(3)]], np.float32)
    ones = np.ones((4, 1), np.float32)
    present = np.array([[1, 0], [1, 0], [1, 0], [0, 0]], np.uint8)
    unseen = np.array([[0, 0], [0, 0], [1, 0], [1, 0]], np.uint8)  # only where it is present
    tally.add(
        logits, ones, ones, np.zeros(4, np.int64), np.empty((4, 0), np.int32), present, unseen
    )
    html = render(tally)
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
    mean = (2 * math.log(2) + 2 * math.log(4 / 3)) / 4
    assert [row for row in cells if row and row[0] in ("all rows", "user", "never")] == [
        ["all rows", "", "", f"{mean:.4f}"],
        ["user", "75.0%", "33.33%", f"{math.log(4 / 3):.4f}"],
        ["never", "0.0%", "-", "-"],
    ]


def test_a_page_shows_the_values_with_most_rows() -> None:
    layout = Layout(("click",), HOUR, ("country",))
    tally = Tally(layout)
    value = np.repeat(np.arange(20, dtype=np.int32), np.arange(1, 21))
    ones = np.ones((len(value), 1), np.float32)
    tally.add(ones, ones, ones, np.zeros(len(value), np.int64), value[:, None])
    html = render(tally)
    after = html[html.index("By country") :]
    names = re.findall(r"<tr><td>(\d+)</td>", after)
    assert names == [str(n) for n in range(19, 7, -1)]
    assert "And 8 more" in after


def test_groups_of_the_reliability_diagram() -> None:
    random = np.random.default_rng(13)
    logit = random.normal(-2, 1, 40_000)
    label = random.random(40_000) < 1 / (1 + np.exp(-logit))
    tally = simple(list(zip(logit.tolist(), label.tolist(), [1.0] * 40_000, strict=True)))
    predicted, observed = plots.groups(tally.histogram("click"))
    assert 10 <= len(predicted) <= 15
    assert predicted == sorted(predicted)
    assert observed == pytest.approx(predicted, rel=0.15)  # made to be calibrated
    assert plots.groups(np.zeros((2, BINS))) == ([], [])
    few = np.zeros((2, BINS))
    few[:, 256] = 3, 1  # too few for a group is a group nevertheless
    assert plots.groups(few)[1] == [0.25]


def test_a_plot_cuts_the_first_windows_and_breaks_at_a_gap() -> None:
    starts = [n * HOUR for n in (*range(10), *range(15, 25))]
    svg = plots.over_time("AUC", [plots.Series("click", starts, [9.0, *[0.8] * 19])], HOUR)
    line = next(d for d in re.findall(r'd="(M[^"]+)"', svg) if d.count("L") > 10)
    assert line.count("M") == 2
    calm = plots.over_time("AUC", [plots.Series("click", starts, [0.8] * 20)], HOUR)
    assert svg != calm


def test_the_terminal_lines_up() -> None:
    out = io.StringIO()
    tally = tallied(made_up(14))
    print_headline(tally, Console(file=out, width=100))
    lines = out.getvalue().rstrip("\n").split("\n")
    assert [line.split()[0] for line in lines] == [
        *("evaluated", "whole", "click", "like", "last", "click", "like")
    ]
    ends = [
        [found.end() for found in re.finditer(r"\S+(?: loss)?", lines[n])][1:] for n in (0, 2, 3, 6)
    ]
    assert ends[0] == ends[1] == ends[2] == ends[3]
    got = overall(tally)
    assert f"{got.rows:,}" in lines[2]
    assert f"{got.log_loss:.4f}" in lines[2]

    out.truncate(0)
    print_headline(Tally(LAYOUT), Console(file=out, width=100))
    assert "no row was evaluated" in out.getvalue()
