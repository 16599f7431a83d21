"""The closed loop's referee: it finds what is wrong, and its intervals are as wide as they say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.closed_loop.events import Action
from examples.closed_loop.live.check import Check, check
from examples.closed_loop.live.journal import ARMS, Arm, Journal, Shown, clicks_more, rate
from examples.closed_loop.live.page import Result, render, summary_lines
from examples.closed_loop.live.readings import Labels, Reading
from jobs.pipeline.config import load

PIPELINE = load(Path(__file__).parents[2] / "examples" / "closed_loop" / "pipeline.toml")
MINUTE = 60_000
KINDS = tuple(PIPELINE.actions)


def shown(
    request: str,
    *actions: tuple[str, str, int],
    user: str = "u-1",
    arm: Arm = "learning",
    time: int = 0,
    asked_again: bool = False,
) -> Shown:
    """A request, with (kind, item, time) of what came of it."""
    items = ("i-1", "i-2", "i-3")
    made = Shown(request, user, arm, time, "run/1", None, 1.0, 2.0, items, asked_again)
    for number, (kind, item, time) in enumerate(actions):
        made.act(Action(kind, user, item, request, f"e-{number}", time))
    return made


def write(
    output: Path,
    *rows: tuple[str, str, dict[str, int]],
    revision: int = 0,
    model: str = "run/1",
    shift: int = 0,
    no_label: str = "",
) -> None:
    """Samples: (request, item, delay in ms by kind), at the places of the items' numbers."""
    folder = output / "samples" / "dt=1970-01-01" / "hr=00"
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {
        "request_id": [request for request, _, _ in rows],
        "item_id": [item for _, item, _ in rows],
        "revision": [revision] * len(rows),
        "position": [int(item[-1]) - 1 + shift for _, item, _ in rows],
        "rank_model": [model] * len(rows),
    }
    for kind in KINDS:
        values = [delays.get(kind) for _, _, delays in rows]
        columns[f"delay_{kind}_ms"] = pa.array(values, pa.int64())
        labels = [int(value is not None and kind != no_label) for value in values]
        columns[f"label_{kind}"] = pa.array(labels, pa.int8())
    pq.write_table(pa.table(columns), folder / f"{revision}.parquet")


STORY = shown(
    "r-1",
    ("impression", "i-1", 2_000),
    ("click", "i-1", 9_000),
    ("click", "i-1", 20_000),
    ("impression", "i-2", 4_000),
    ("click", "i-2", 31 * MINUTE),
)
RIGHT = (
    ("r-1", "i-1", {"impression": 2_000, "click": 9_000}),
    ("r-1", "i-2", {"impression": 4_000}),
)


def checked(output: Path, *stories: Shown, may_be_lost: bool = False) -> Check:
    return check(stories or (STORY,), output, PIPELINE, lambda _: may_be_lost)


def test_samples_that_say_what_happened_within_the_windows_agree(tmp_path: Path) -> None:
    write(tmp_path, *RIGHT)
    found = checked(tmp_path)
    assert found.agrees
    assert found.rows == 2
    click = found.kinds["click"]
    assert (click.made, click.in_window, click.labels, click.complete) == (2, 1, 1, 0.5)


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (RIGHT[:1], "missing"),
        ((*RIGHT, ("r-1", "i-3", {"impression": 1})), "stray"),
        ((RIGHT[0], ("r-1", "i-2", {"impression": 4_000, "click": 31 * MINUTE})), "wrong"),
        ((("r-1", "i-1", {"impression": 2_000}), RIGHT[1]), "wrong"),
    ],
)
def test_each_kind_of_fault_is_found(tmp_path: Path, rows: Any, what: str) -> None:
    write(tmp_path, *rows)
    found = checked(tmp_path)
    assert not found.agrees
    counts = {name: getattr(found, name) for name in ("missing", "stray", "wrong")}
    assert counts == {name: int(name == what) for name in counts}
    assert found.examples


def test_the_last_version_of_a_sample_counts(tmp_path: Path) -> None:
    write(tmp_path, ("r-1", "i-1", {"impression": 2_000}), RIGHT[1])
    write(tmp_path, RIGHT[0], revision=1)
    assert checked(tmp_path).agrees


@pytest.mark.parametrize("fault", [{"model": "run/2"}, {"shift": 1}, {"no_label": "click"}])
def test_a_sample_must_say_how_it_was_shown_and_have_its_labels(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    write(tmp_path, *RIGHT, **fault)
    assert checked(tmp_path).wrong


def test_of_a_request_that_was_asked_again_the_first_answer_may_be_logged(tmp_path: Path) -> None:
    write(tmp_path, ("r-1", "i-1", {"click": 5}), shift=1)
    assert checked(tmp_path, shown("r-1", ("click", "i-1", 5), asked_again=True)).agrees


@pytest.mark.parametrize("killed", [True, False])
def test_a_request_without_rows_is_excused_only_where_its_service_was_killed(
    tmp_path: Path, killed: bool
) -> None:
    write(tmp_path, *RIGHT)
    lost = shown("r-2", ("impression", "i-1", 1_000))
    found = checked(tmp_path, STORY, lost, may_be_lost=killed)
    assert (found.agrees, found.lost_requests) == (killed, int(killed))


def test_clicks_are_counted_once_for_an_item(tmp_path: Path) -> None:
    journal = Journal()
    journal.add(shown("r-1"))
    again = Action("click", "u-1", "i-1", "r-1", "e-1", 5)
    journal.act([again, again, Action("impression", "u-1", "i-1", "r-1", "e-2", 4)])
    found = rate(journal.between(0, 1), "impression")
    assert (found.requests, found.seen, found.clicks, found.ctr) == (1, 1, 1, 1.0)
    assert rate([], "impression").ctr is None
    write(tmp_path, ("r-1", "i-1", {"click": 5}))
    assert Labels(tmp_path).completeness(journal) == 1.0


def test_the_interval_contains_the_difference_as_often_as_it_says() -> None:
    """Users differ, and a user's requests are alike: an interval over requests is too narrow."""
    rng = np.random.default_rng(0)
    truth, contained = 0.1, 0
    for _ in range(200):
        arms = []
        for more in (truth, 0.0):
            arm = []
            for user in range(150):
                level = rng.gamma(2.0, 0.25) + more
                for _ in range(1 + rng.poisson(5)):
                    clicks = [("click", f"i-{n}", 1) for n in range(rng.poisson(level))]
                    arm.append(shown("r", *clicks, user=f"u-{user}"))
            arms.append(arm)
        found = clicks_more(*arms)
        contained += found.low <= truth <= found.high
    assert 0.90 <= contained / 200 <= 0.99
    assert math.isnan(clicks_more([], []).value)


def test_the_page_says_what_differs(tmp_path: Path) -> None:
    write(tmp_path, *RIGHT)
    stories = [
        shown(f"r-{n}", ("impression", "i-1", n), user=f"u-{n}", time=n * MINUTE, arm=arm)
        for n in range(8)
        for arm in ARMS
    ]
    nothing = rate([], "impression")
    reading = Reading(1.0, 1, 1, 1.0, 3, nothing, nothing, None, 2, 1, None, None, None)
    result = Result(
        shown=stories,
        readings=[reading],
        check=checked(tmp_path),
        difference=clicks_more(stories[::2], stories[1::2]),
        unaccounted=2,
        begin=0,
        frozen_at=0,
        new_interest_at=None,
        faults=[("the <broker>", MINUTE)],
        scores=[(0, 0.7, None)],
        seen_kind="impression",
        minutes=1.0,
    )
    page = render(result)
    assert "2 unaccounted for" in page
    assert "the &lt;broker&gt;" in page
    assert page.count("<svg") == 6
    assert any("excludes zero" in text or "contains zero" in text for text in summary_lines(result))
