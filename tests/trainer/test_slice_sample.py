"""Slices counted from a sample of the rows: right on average, exact where rows are few."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.trainer.test_steps_by_sample import rules_of, samples_of, spec_of
from trainer.config.sections import StepsPer
from trainer.evaluation.sampling import RowSample
from trainer.evaluation.tally import ALL, Layout, Tally
from trainer.run.learner import Learner
from trainer.server.parameters import LocalParameters
from trainer.server.shard import Shard

HOUR = 3_600_000
LAYOUT = Layout(("click",), HOUR, ("position",), ("user", "price"))


def counted(share: float, exact_rows: int, rows: int = 60_000, batch: int = 1_000) -> Tally:
    """Requests of ten items: the position is the number of the row, modulo ten."""
    random = np.random.default_rng(5)
    tally, sample = Tally(LAYOUT), RowSample(share, HOUR, exact_rows)
    for start in range(0, rows, batch):
        position = np.arange(start, start + batch) % 10
        logits = random.normal(-1 - position / 5, 1)
        labels = random.random(batch) < 1 / (1 + np.exp(-logits))
        times = (start + np.arange(batch)) * HOUR // 25_000  # three windows
        present = np.stack([position >= 0, position % 3 == 0], axis=1)
        of_rows = [array.astype(np.float32)[:, None] for array in (logits, labels, labels + 0.5)]
        unseen = present & (random.random(present.shape) < 0.2)
        factors = sample.factors(times)
        if factors is not None:
            # these need not be known
            present[factors == 0] = unseen[factors == 0] = False
        slices = position.astype(np.int32)[:, None]
        arguments: list[Any] = [*of_rows, times, slices, present, unseen, factors]
        tally.add(*arguments)
    return tally


def by_cell(tally: Tally) -> dict[tuple[Any, ...], Any]:
    return {(m.window, m.slice, m.value): m.measures for m in tally.metrics()}


def test_all_rows_count_once_whatever_the_share() -> None:
    exact, sampled = by_cell(counted(1.0, 0)), by_cell(counted(0.05, 500))
    for cell, measures in exact.items():
        if cell[1] == ALL:
            assert sampled[cell] == measures


def test_slices_are_right_on_average() -> None:
    exact, sampled = by_cell(counted(1.0, 0)), by_cell(counted(0.1, 500))
    assert exact.keys() == sampled.keys()
    for cell, expected in exact.items():
        found = sampled[cell]
        # five standard errors of a sum of which each row is there with a chance of 0.1
        error = 5 * np.sqrt(0.9 / 0.1 / expected.rows)
        assert found.rows == pytest.approx(expected.rows, rel=error), cell
        assert found.weight == pytest.approx(expected.weight, rel=error), cell
        assert found.log_loss == pytest.approx(expected.log_loss, rel=error), cell
        assert found.prediction == pytest.approx(expected.prediction, rel=error), cell
    # it is a sample
    assert any(exact[cell] != sampled[cell] for cell in exact)


def test_windows_with_few_rows_are_exact() -> None:
    assert by_cell(counted(0.01, 25_000)) == by_cell(counted(1.0, 0))


@pytest.mark.parametrize("share", [0.01, 0.25, 0.9])
def test_each_position_of_a_request_is_as_likely(share: float) -> None:
    sample = RowSample(share, HOUR, 0)
    found = [sample.factors(np.zeros(4_096, np.int64)) for _ in range(50)]
    factors = np.concatenate([of for of in found if of is not None])
    assert set(factors.tolist()) == {0.0, 1 / share}
    for every in (2, 3, 10):
        for first in range(every):
            here = factors[first::every]
            error = 5 * np.sqrt((1 - share) / share / len(here))
            assert here.mean() == pytest.approx(1.0, abs=error)


def test_without_a_share_nothing_is_chosen() -> None:
    assert RowSample(1.0, HOUR).factors(np.zeros(10, np.int64)) is None


@pytest.mark.parametrize("steps", ["batch", "sample"])
def test_slots_are_looked_at_in_the_rows_that_count(steps: StepsPer) -> None:
    """The samples have lists, missing values, and keys without parameters."""
    spec, rules = spec_of(), rules_of("plain")
    layout = Layout(rules.actions, HOUR, (), ("user", "price", "tags"))
    learner = Learner(spec, rules, layout, 300, steps, slice_share=0.3)
    batch = samples_of(spec, "plain").chunk.batch(0, 300, by_row=steps == "sample")
    random = np.random.default_rng(2)
    known = [(random.random(len(bag.keys)) < 0.5).astype(np.uint8) for bag in batch.tables]
    learner._sample = RowSample(0.3, HOUR, exact_rows=0)
    factors = learner._sample.factors(batch.times)
    assert factors is not None
    every, some = learner._slots_of(batch, known, None), learner._slots_of(batch, known, factors)
    for of_all, of_some in zip(every, some, strict=True):
        assert 0 < of_all.mean() < 1
        np.testing.assert_array_equal(of_some[factors > 0], of_all[factors > 0])
    parameters = LocalParameters(Shard(spec, contributions=None, has_dense=True))
    learner.learn(batch, parameters, 0, 0)
    found = by_cell(learner.take_tally())
    assert sum(m.rows for cell, m in found.items() if cell[1:] == ("slot:user", "present")) > 30
