"""What a wait costs: the formulas of the policies, on delays that are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from jobs.pipeline.config import load
from tests.unit.test_advice_reading import CONFIG
from tools.advise_window.answers import config_duration
from tools.advise_window.cost import Overheads, PolicyCost, grid, policies, waiting
from tools.advise_window.delays import DelayEstimate
from tools.advise_window.observations import observe

SECOND = 1_000.0
NEVER = 10_000  # impressions without an action
OVER = Overheads(any_row=2 * SECOND, final_row=5 * SECOND)


def estimate(kind: str, delays_s: list[float], each: int) -> DelayEstimate:
    """Impressions of which `each` act after each delay, and all are followed for long."""
    delays = np.repeat(delays_s, each) * SECOND
    everyone = np.concatenate([delays, np.full(NEVER, np.nan)])
    follow = np.full(len(everyone), 1e9)
    return DelayEstimate(observe(kind, 60_000, everyone, follow, np.ones(len(everyone))))


@pytest.fixture(scope="module")
def click() -> DelayEstimate:
    return estimate("click", [4, 8, 20, 100], 250)


@pytest.fixture(scope="module")
def buy() -> DelayEstimate:
    return estimate("buy", [10, 50], 500)


def by_name(costs: list[PolicyCost]) -> dict[str, PolicyCost]:
    return {cost.name: cost for cost in costs}


def test_false_negatives_of_a_wait(click: DelayEstimate) -> None:
    at_10, at_60 = waiting(click, np.array([10, 60]) * SECOND, OVER)
    assert (at_10.complete, at_60.complete) == pytest.approx((0.5, 0.75), abs=1e-4)
    assert at_10.missed == pytest.approx(0.5, abs=1e-4)
    # 500 of the 1000 that act are among the negatives, with 10 000 that never do
    assert at_10.of_negatives == pytest.approx(500 / 10_500, rel=1e-3)
    assert at_10.age_ms == 15 * SECOND
    assert at_10.low < at_10.complete < at_10.high
    assert at_10.observed


def test_rows_and_ages_of_the_policies(click: DelayEstimate, buy: DelayEstimate) -> None:
    windows = {"click": 30 * SECOND, "buy": 60 * SECOND}
    costs = by_name(policies([click, buy], windows, OVER, [9 * SECOND]))
    assert list(costs) == ["wait", "fake_negative", "es_dfm(9s)", "defer(9s)"]
    # of 1000 clicks and 1000 buys 250 clicks are beyond their window
    for cost in costs.values():
        assert cost.lost == pytest.approx(250 / 2_000, abs=1e-3)
    p = 1_000 / (NEVER + 1_000)
    assert costs["wait"].rows == 1
    assert costs["fake_negative"].rows == pytest.approx(1 + p * 0.75 + p, rel=1e-3)
    assert costs["es_dfm(9s)"].rows == pytest.approx(1 + p * 0.25 + p, rel=1e-3)
    assert costs["defer(9s)"].rows == pytest.approx(2 + p * 0.25 + p, rel=1e-3)
    assert costs["wait"].first_age_ms == 65 * SECOND
    assert costs["fake_negative"].first_age_ms == 2 * SECOND
    assert costs["defer(9s)"].first_age_ms == 11 * SECOND
    assert costs["fake_negative"].fake == pytest.approx(1, abs=1e-3)
    assert costs["es_dfm(9s)"].fake == pytest.approx(1_500 / 2_000, abs=1e-3)
    # positives within the windows: 250 each at 4, 8 and 20 s, 500 each at 10 and 50 s
    mean = (250 * (4 + 8 + 20) + 500 * (10 + 50)) / 1_750
    assert costs["fake_negative"].right_mean_ms == pytest.approx((mean + 2) * SECOND, rel=0.01)
    assert costs["fake_negative"].right_median_ms == pytest.approx(12 * SECOND, rel=0.01)
    waited = (250 * (9 + 9 + 20) + 500 * (10 + 50)) / 1_750
    assert costs["defer(9s)"].right_mean_ms == pytest.approx((waited + 2) * SECOND, rel=0.01)


def test_the_grid_has_the_windows_among_round_waits(click: DelayEstimate) -> None:
    waits = grid(click, [33 * SECOND]).tolist()
    assert 33 * SECOND in waits
    assert 30 * SECOND in waits
    assert waits == sorted(set(waits))


def test_overheads_come_from_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_text(CONFIG.format(key="request_id"))
    pipeline = load(
        path,
        [
            "join.clock_skew=1s",
            "join.allowed_lateness=10s",
            "sources.features.out_of_orderness=3s",
            "sources.actions.out_of_orderness=5s",
        ],
    )
    assert Overheads.of(pipeline) == Overheads(6_000, 16_000)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0.4, "1ms"),
        (850, "850ms"),
        (1_501, "1600ms"),
        (41_234, "42s"),
        (174_300, "3min"),
        (464_400, "470s"),
        (12_699_000, "220min"),
        (3 * 3_600_000, "3h"),
        (40 * 3_600_000.0, "40h"),
        (11 * 86_400_000.0, "11d"),
    ],
)
def test_a_window_is_written_rounded_up(ms: float, text: str) -> None:
    assert config_duration(ms) == text
    number, unit = int(text.rstrip("dhmins")), text.lstrip("0123456789")
    size = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}[unit]
    assert math.ceil(ms) <= number * size <= 1.1 * ms + 1
