"""A new model predicts the rates of the first samples, whatever rows the policy writes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.actions import ActionKind
from tests.trainer import runs
from tests.trainer.runs import Joined
from trainer.features.batch import Targets
from trainer.losses.base_rate import starting_logits
from trainer.losses.targets import LossKind, LossRules

CLICK = ActionKind("click", 10_000, "any")
LOSSES: tuple[LossKind, ...] = ("plain", "fnw", "es_dfm", "defer")


def rules(loss: LossKind, rate: float | None = None) -> LossRules:
    sampling = "importance" if rate is None else "log_odds"
    return LossRules(loss, ("click",), None if loss == "plain" else 0, sampling, rate=rate)  # type: ignore[arg-type]


def written(loss: LossKind, early: int, late: int, never: int) -> Targets:
    """The rows of so many impressions that act at once, later, and never."""
    rows: list[tuple[int, int, int]] = []  # label, delayed, whether it tells of delay
    match loss:
        case "plain":
            rows = [(1, 0, 0)] * (early + late) + [(0, 0, 0)] * never
        case "fnw":
            rows = [(0, 0, 0)] * (early + late + never) + [(1, 0, 0)] * (early + late)
        case "es_dfm":
            rows = [(1, 0, 1)] * early + [(0, 0, 1)] * (late + never) + [(1, 1, 1)] * late
        case "defer":
            first = [(1, 0, 0)] * early + [(0, 0, 0)] * (late + never)
            rows = first + [(1, 0, 1)] * early + [(1, 1, 1)] * late + [(0, 0, 1)] * never
    table = np.array(rows, np.float32).reshape(len(rows), 3)
    label, delayed, tells = table[:, :1], table[:, 1:2], table[:, 2:]
    if loss in ("plain", "fnw"):
        delayed = tells = np.zeros((len(rows), 0), np.float32)
    return Targets(label, np.ones_like(label), delayed, tells)


def probability(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit))


@pytest.mark.parametrize("loss", LOSSES)
@given(early=st.integers(0, 400), late=st.integers(0, 400), never=st.integers(500, 3_000))
def test_the_rates_are_those_of_the_impressions(
    loss: LossKind, early: int, late: int, never: int
) -> None:
    started = starting_logits(rules(loss), [written(loss, early, late, never)])
    every = early + late + never
    assert probability(started[0]) == pytest.approx((early + late) / every, abs=4 / every)
    if loss in ("es_dfm", "defer"):
        assert probability(started[1]) == pytest.approx(late / every, abs=4 / every)
    else:
        assert len(started) == 1


def test_negatives_that_were_sampled_away_count() -> None:
    """By their weights, or with log_odds by the offset: one in four was written."""
    labels = np.array([[1.0]] * 100 + [[0.0]] * 225, np.float32)
    none = np.zeros((len(labels), 0), np.float32)
    by_weight = Targets(labels, np.where(labels > 0, 1, 4).astype(np.float32), none, none)
    by_odds = Targets(labels, np.ones_like(labels), none, none)
    (one,) = starting_logits(rules("plain"), [by_weight])
    (other,) = starting_logits(rules("plain", 0.25), [by_odds])
    assert probability(one) == pytest.approx(0.1, abs=0.001)
    assert probability(other) == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize("loss", LOSSES)
def test_where_nothing_is_known_it_begins_with_0(loss: LossKind) -> None:
    assert set(starting_logits(rules(loss), [])) == {0.0}
    assert set(starting_logits(rules(loss), [written(loss, 0, 0, 0)])) == {0.0}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("early", "never"), [(0, 1), (1, 0), (5_000, 0), (0, 5_000)])
def test_one_class_alone_gives_a_finite_logit(loss: LossKind, early: int, never: int) -> None:
    started = starting_logits(rules(loss), [written(loss, early, 0, never)])
    assert all(abs(logit) < 14 for logit in started)


def test_a_run_begins_with_it_and_keeps_it(tmp_path: Path) -> None:
    joined = Joined(tmp_path, (CLICK,))
    rows = 1_000
    clicks = [5 if n % 20 == 0 else None for n in range(rows)]
    joined.samples({"ad": [f"a{n % 7}" for n in range(rows)], "delay_click_ms": clicks})
    first = runs.train_here(joined.configured("model"), stop_after=1)
    spec = first.session.runner.job.spec
    assert probability(spec.base[0]) == pytest.approx(0.05, abs=0.001)
    # before anything was learned it was as good as always predicting the rate
    assert first.metric("calibration") == pytest.approx(1, abs=0.02)
    assert first.metric("normalized_entropy") == pytest.approx(1, abs=0.001)
    # a run that goes on has the base that the model began with, not that of other first samples
    joined.samples({"ad": ["a1"] * rows, "delay_click_ms": [5] * rows}, name="part-1", hour=-1)
    again = runs.train_here(joined.configured("model"))
    assert again.session.runner.job.spec == spec
    assert again.session.rows == 2 * rows
    zero = runs.train_here(joined.configured("zero", "model.start=zero"), stop_after=1)
    assert zero.session.runner.job.spec.base == ()
    without = runs.train_here(joined.configured("without", "model.bias=false"), stop_after=1)
    assert without.session.runner.job.spec.base == ()
