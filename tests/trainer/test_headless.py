"""The closed loop in one process: it learns, its arms differ, and its figures are what they say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from examples.closed_loop.events import Request
from examples.closed_loop.headless import referee
from examples.closed_loop.headless.configured import configured
from examples.closed_loop.headless.join import HeadlessJoin
from examples.closed_loop.headless.model import Model, candidate_table
from examples.closed_loop.headless.referee import Referee
from examples.closed_loop.headless.rows import RowTables
from examples.closed_loop.headless.run import Plan, Result, Run
from examples.closed_loop.shown import as_shown
from examples.closed_loop.sweep import report, results
from examples.closed_loop.sweep.cells import Cell, cells, other_cells
from examples.closed_loop.world import DAY, MINUTE, Settings, World

#: Small, and quick to change, so that two days are enough.
LIVELY = Settings(days=2.0, requests_a_day=1200, users=120, drift_a_day=0.9, new_items_a_day=400)
SHORT = ["actions.click.window=30min"]
CLICKS = ("impression", "click")
SPLIT = {"learning": 0.34, "frozen": 0.33, "random": 0.33}


def run(
    seed: int = 0, arms: dict[str, float] = SPLIT, sets: Sequence[str] = SHORT, **world: float
) -> Result:
    pipeline, config = configured(sets, kinds=CLICKS)
    settings = Settings(**{**_fields(LIVELY), **world})  # type: ignore[arg-type]
    return Run(World(seed, settings), pipeline, config, Plan(arms, 15 * MINUTE, seed=seed)).run()


def _fields(settings: Settings) -> dict[str, float]:
    return dict(vars(settings))


@pytest.fixture(scope="module")
def split() -> Result:
    return run()


def shares(found: Referee) -> np.ndarray:
    """Of each request of the second day: clicks of the ranking, over those of the best one."""
    late = np.array(found.times) >= LIVELY.begin + DAY
    of: np.ndarray = (np.array(found.clicks) / np.array(found.best))[late]
    return of


def least_difference(one: np.ndarray, other: np.ndarray) -> float:
    """The lower end of the 95 % interval of the difference of the means."""
    error = np.sqrt(one.var() / len(one) + other.var() / len(other))
    return float(one.mean() - other.mean() - 1.96 * error)


def test_learning_is_better_than_a_frozen_model_and_that_than_chance(split: Result) -> None:
    of = {arm: shares(found) for arm, found in split.referees.items()}
    assert least_difference(of["learning"], of["frozen"]) > 0
    assert least_difference(of["frozen"], of["random"]) > 0
    assert split.rows > 3000
    # a model that has not seen the late clicks foretells fewer
    assert 0.6 < split.calibration < 1.1


def test_the_best_arm_loses_nothing_and_the_same_seed_gives_the_same_run() -> None:
    best = run(arms={"best": 1.0}, days=0.3)
    assert best.referees["best"].regret(0) == pytest.approx(0.0)
    once, again = run(days=0.6), run(days=0.6)
    assert again.referees == once.referees
    assert (again.rows, again.calibration) == (once.rows, once.calibration)


def test_users_keep_their_arm() -> None:
    pipeline, config = configured(SHORT, kinds=CLICKS)
    runs = [Run(World(s, LIVELY), pipeline, config, Plan(SPLIT, seed=s)) for s in (1, 2)]
    arms = [[r.arm_of(f"u-{n:04}") for n in range(3000)] for r in runs]
    assert arms[0] == arms[1]
    for arm, share in SPLIT.items():
        assert arms[0].count(arm) == pytest.approx(3000 * share, rel=0.1)


def test_longer_windows_have_more_of_the_labels_and_later() -> None:
    found = [
        run(
            sets=[f"actions.click.window={w}"], arms={"learning": 1.0}, days=2.4, requests_a_day=400
        )
        for w in ("5min", "6h")
    ]
    assert found[1].completeness > found[0].completeness + 0.1
    # the rows of the last hours are not there yet
    assert found[1].rows < found[0].rows


def some_rows(sets: Sequence[str] = ()) -> tuple[HeadlessJoin, RowTables, list[Request]]:
    pipeline, _ = configured(sets)
    join, world, shown = HeadlessJoin(pipeline), World(4, LIVELY), []
    for event in world.events():
        if event.time > LIVELY.begin + DAY // 4:
            break
        if isinstance(event, Request):
            ranking = [c.item_id for c in event.candidates]
            world.show(event, ranking)
            shown.append(event)
            join.request(as_shown(event, ranking))
        else:
            join.action(event)
    return join, RowTables(pipeline.schema, pipeline.kinds), shown


def test_rows_come_when_the_watermark_allows_and_state_goes() -> None:
    join, tables, shown = some_rows()
    assert join.take() == []
    pipeline, _ = configured()
    settled = pipeline.rules.deadline(shown[0].time)
    join.advance(settled - 1)
    assert tables.of(join.take()).num_rows == 0
    join.advance(settled)
    first = tables.of(join.take())
    assert set(first["request_id"].to_pylist()) == {shown[0].request_id}
    assert join.keys > 100
    join.finish()
    assert join.keys == 0
    assert tables.of(join.take()).num_rows > 300


def test_a_frozen_model_scores_as_it_did_and_the_other_goes_on() -> None:
    join, tables, shown = some_rows()
    join.finish()
    table = tables.of(join.take())
    _, config = configured()
    model = Model(config)
    assert model.scorer() is None
    model.learn(table.slice(0, 100).select(model.columns))
    assert model.scorer() is None  # too few rows to begin with
    model.learn(table.slice(100, 600).select(model.columns))
    now, frozen = model.scorer(), model.frozen()
    assert now is not None
    assert frozen is not None
    before = now.score(shown[:5])
    assert before.shape == (5 * LIVELY.candidates,)
    assert np.array_equal(frozen.score(shown[:5]), before)
    model.learn(table.slice(700).select(model.columns))
    assert np.array_equal(frozen.score(shown[:5]), before)
    assert not np.array_equal(now.score(shown[:5]), before)


def test_candidates_become_the_columns_that_samples_have() -> None:
    _, tables, shown = some_rows()
    columns = ["item_id", "user_id", "position", "segment", "user_category", "age_hours"]
    table = candidate_table(shown[:2], columns)
    assert table.num_rows == 2 * LIVELY.candidates
    first = shown[1].candidates[0]
    assert table.slice(LIVELY.candidates, 1).to_pylist() == [
        {
            "item_id": first.item_id,
            "user_id": shown[1].user_id,
            "position": 0,
            "segment": shown[1].context["segment"],
            "user_category": first.features["user_category"],
            "age_hours": first.features["age_hours"],
        }
    ]
    assert all(table.schema.field(c).type == tables.schema.field(c).type for c in ("age_hours",))
    assert table.schema.field("item_id").type == pa.string()


def test_time_until_news_are_ranked_well() -> None:
    well = [*[9.0] * referee.BEFORE_H, *[5.0] * 4, *[9.0] * 6]
    assert referee.hours_until_well(well, [10.0] * len(well)) == 4.0
    never = [5.0] * (referee.BEFORE_H + 7)
    assert referee.hours_until_well(never, [10.0] * len(never)) == 7.0
    there = [100] * len(referee.AGES)
    assert referee.age_ranked_well([*there, 0], [10, 20, 30, 60, 66, 70, 70, 0]) == 24.0
    assert referee.age_ranked_well([*there, 0], [70] * 7 + [0]) == 1.0


def test_cells_are_distinct_and_their_configurations_are_valid() -> None:
    every = [*cells(), *other_cells()]
    assert len(set(every)) == len(every) == 29
    for cell in every:
        pipeline, config = cell.configuration()
        assert config.declared is pipeline
        assert pipeline.rules.longest_window == pipeline.rules.windows["click"]
        assert (pipeline.rules.exposure is None) is not cell.exposure


def measured(cell: Cell, seed: int, regret: float) -> results.Measured:
    return results.Measured(
        cell=cell,
        seed=seed,
        ctr={"learning": 0.1},
        regret={"learning": regret},
        best_ctr=0.2,
        by_day=[0.1],
        new_clicks=[],
        new_best=[],
        new_interest_lost=0.1,
        there=[],
        hits=[],
        completeness=0.9,
        calibration=1.0,
        rows=5,
        seconds=1.0,
    )


def test_results_are_kept_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    assert results.read(path) == []
    made = measured(Cell("1h", "wait"), 3, 0.2)
    results.append(path, made)
    with path.open("ab") as file:
        file.write(b'{"cell": {"window"')  # the sweep was killed here
    assert results.read(path) == [made]


def test_differences_are_paired_by_seed_and_only_whole_seeds_count() -> None:
    one, other = Cell("6h", "defer"), Cell("1h", "wait")
    # the worlds differ by much more than the two cells do
    every = [
        measured(cell, seed, 0.1 * seed + (0.03 if cell == other else 0.01 + 0.001 * seed))
        for seed in range(4)
        for cell in cells()
        if not (seed == 3 and cell == one)
    ]
    found = report.by_cell(every)
    assert [run.seed for run in found[other]] == [0, 1, 2]
    mean, half, seeds = report.difference(found, one, other)
    assert mean == pytest.approx(-0.019)
    assert seeds == 3
    assert half == pytest.approx(4.30 * 0.001 / 3**0.5)
    assert report.interval([0.5]) == (0.5, 0.0)
    assert "| -1.9 ± 0.2 points | 3 |" in report.differences_table(found, report.PAIRS)
