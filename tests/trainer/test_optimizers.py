"""Optimizers against their papers, in float64 and a coordinate at a time; start values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
import pytest

from trainer.spec import AdaGrad, Adam, Ftrl, Optimizer, Segment, TableSpec
from trainer.table.optimizers import Floats, Kernel, kernel
from trainer.table.table import Table

Doubles = npt.NDArray[np.float64]


class State:
    """`rows` rows of one segment, that stand in it in another order."""

    def __init__(self, optimizer: Optimizer, rows: int, width: int, scale: float = 0.0) -> None:
        self.kernel: Kernel = kernel(Segment("linear", width, optimizer, scale), 0, seed=1)
        self.width = width
        self.places = np.random.default_rng(rows).permutation(rows + 5)[:rows].astype(np.int64)
        self.state: Floats = np.zeros((rows + 5, self.kernel.floats), np.float32)
        self.kernel.start(self.state, self.places, np.arange(1, rows + 1, dtype=np.uint64))

    def values(self) -> Floats:
        # beside other columns, which are another segment's
        out = np.full((len(self.places), self.width + 2), np.float32(7))
        self.kernel.read(self.state, self.places, out, 1)
        assert (out[:, [0, -1]] == 7).all()
        return out[:, 1:-1]

    def step(self, gradients: Floats, touched: npt.NDArray[np.bool_] | None = None) -> None:
        """`touched`: which rows are in the batch."""
        wide = np.full((len(gradients), self.width + 2), np.float32(1e9))
        wide[:, 1:-1] = gradients
        places = self.places if touched is None else np.where(touched, self.places, -1)
        self.kernel.update(self.state, places, wide, 1)


# -- FTRL-Proximal ---------------------------------------------------------------------------------


@dataclass
class Coordinate:
    """Algorithm 1 of McMahan et al., Ad click prediction: a view from the trenches, KDD 2013."""

    alpha: float
    beta: float
    lambda1: float
    lambda2: float
    z: float = 0.0
    n: float = 0.0

    @property
    def w(self) -> float:
        if abs(self.z) <= self.lambda1:
            return 0.0
        rate = 1.0 / ((self.beta + math.sqrt(self.n)) / self.alpha + self.lambda2)
        return -rate * (self.z - math.copysign(1.0, self.z) * self.lambda1)

    def learn(self, g: float) -> None:
        sigma = (math.sqrt(self.n + g * g) - math.sqrt(self.n)) / self.alpha
        self.z += g - sigma * self.w
        self.n += g * g


FTRL = [
    Ftrl(alpha=0.1, beta=1.0),
    Ftrl(alpha=0.05, beta=1.0, l1=0.5, l2=0.1),
    Ftrl(alpha=0.5, beta=0.1, l1=2.0),
    Ftrl(alpha=1.0, beta=0.0, l1=1.0, l2=3.0),
]


@pytest.mark.parametrize("optimizer", FTRL, ids=str)
def test_ftrl_is_algorithm_1(optimizer: Ftrl) -> None:
    rows, width, steps = 40, 3, 250
    random = np.random.default_rng(2)
    # slowly turning, so weights of both signs come, vanish and return
    drift = np.sin(np.linspace(0, 9, steps)[:, None, None] + random.uniform(0, 6, (1, rows, width)))
    gradients = (drift + random.normal(0, 0.5, drift.shape)).astype(np.float32)
    gradients[random.random(gradients.shape) < 0.1] = 0.0
    touched = random.random((steps, rows)) < 0.7
    o = optimizer
    reference = [
        [Coordinate(o.alpha, o.beta, o.l1, o.l2) for _ in range(width)] for _ in range(rows)
    ]
    state = State(optimizer, rows, width)
    history = []
    for step in range(steps):
        expected = [[c.w for c in row] for row in reference]
        np.testing.assert_allclose(state.values(), expected, rtol=2e-4, atol=2e-5)
        history.append(expected)
        state.step(gradients[step], touched[step])
        for r in np.flatnonzero(touched[step]).tolist():
            for j, c in enumerate(reference[r]):
                c.learn(float(gradients[step, r, j]))
    signs = np.sign(np.array(history)).reshape(steps, -1).T.tolist()
    assert any(both(sign, -1.0, 1.0) for sign in signs)
    if optimizer.l1 > 0:
        assert any(returns(sign, 1.0) for sign in signs)
        assert any(returns(sign, -1.0) for sign in signs)


def both(signs: list[float], *wanted: float) -> bool:
    return all(sign in signs for sign in wanted)


def returns(signs: list[float], sign: float) -> bool:
    """Whether a weight had the sign, was 0 after that, and had it again."""
    if sign not in signs:
        return False
    rest = signs[signs.index(sign) :]
    return 0.0 in rest and sign in rest[rest.index(0.0) :]


def test_a_weight_of_ftrl_is_exactly_0_up_to_l1_and_on_it() -> None:
    state = State(Ftrl(alpha=0.1, l1=1.5), rows=5, width=1)
    z = np.array([[1.5], [-1.5], [0.75], [1.75], [-1.75]], np.float32)
    # from w = 0, z is the sum of the gradients
    state.step(z)
    values = state.values()[:, 0]
    assert values[:3].tolist() == [0, 0, 0]
    assert values[3] < 0 < values[4]
    assert values[3] == -values[4]


# -- AdaGrad ---------------------------------------------------------------------------------------


def test_adagrad_is_that_of_duchi_and_others() -> None:
    rows, width, rate, initial = 30, 4, 0.3, 0.1
    random = np.random.default_rng(3)
    state = State(AdaGrad(rate, initial), rows, width, scale=0.5)
    w: Doubles = state.values().astype(np.float64)
    n: Doubles = np.full(w.shape, initial)
    for _ in range(100):
        gradients = random.normal(0, 1, w.shape).astype(np.float32)
        gradients[random.random(w.shape) < 0.2] = 0.0
        touched = random.random(rows) < 0.6
        state.step(gradients, touched)
        g = np.where(touched[:, None], gradients, 0.0)
        n += g * g
        w -= rate * g / np.sqrt(n)
        np.testing.assert_allclose(state.values(), w, rtol=1e-4, atol=1e-5)


# -- Adam ------------------------------------------------------------------------------------------


class OptaxAdam:
    """optax over one row."""

    def __init__(self, optimizer: Adam, values: Any) -> None:
        o = optimizer
        self._optimizer = optax.adam(o.rate, b1=o.beta1, b2=o.beta2, eps=o.epsilon)
        self.values = jnp.asarray(values)
        self._state: Any = self._optimizer.init(self.values)

    def step(self, gradient: Any) -> None:
        updates, self._state = self._optimizer.update(jnp.asarray(gradient), self._state)
        self.values = optax.apply_updates(self.values, updates)


@pytest.mark.parametrize(
    "optimizer", [Adam(rate=0.01), Adam(0.1, beta1=0.5, beta2=0.9, epsilon=1e-3)], ids=str
)
def test_adam_of_a_row_in_every_batch_is_that_of_optax(optimizer: Adam) -> None:
    random = np.random.default_rng(4)
    state = State(optimizer, rows=1, width=5, scale=0.2)
    reference = OptaxAdam(optimizer, state.values()[0])
    for _ in range(40):
        gradients = random.normal(0.3, 1, (1, 5)).astype(np.float32)
        before, before_reference = state.values()[0], np.asarray(reference.values)
        state.step(gradients)
        reference.step(gradients[0])
        # the steps, and not where they lead to from 0.2 away; 1 - 0.999 has 5e-5 in float32
        np.testing.assert_allclose(
            state.values()[0] - before,
            np.asarray(reference.values) - before_reference,
            rtol=1e-3,
            atol=1e-3 * optimizer.rate,
        )
    np.testing.assert_allclose(state.values()[0], reference.values, rtol=1e-4, atol=1e-5)


def test_adam_of_a_rare_row_counts_its_own_steps() -> None:
    rows, optimizer = 4, Adam(rate=0.05)
    random = np.random.default_rng(5)
    state = State(optimizer, rows, width=2)
    references = [OptaxAdam(optimizer, row) for row in state.values()]
    every = np.array([1, 3, 7, 20])
    for step in range(1, 61):
        gradients = random.normal(0, 1, (rows, 2)).astype(np.float32)
        touched = step % every == 0
        before = state.values()
        state.step(gradients, touched)
        for r in np.flatnonzero(touched).tolist():
            references[r].step(gradients[r])
        np.testing.assert_array_equal(state.values()[~touched], before[~touched])
        expected = np.stack([np.asarray(r.values) for r in references])
        np.testing.assert_allclose(state.values(), expected, rtol=1e-3, atol=2e-5)


def test_the_first_step_of_adam_is_the_rate_against_the_sign() -> None:
    """Also of a row that comes late: without a count of its own it would be far smaller."""
    state = State(Adam(rate=0.05), rows=2, width=1)
    first, second = np.array([True, False]), np.array([False, True])
    for _ in range(50):
        state.step(np.array([[2.0], [0.0]], np.float32), first)
    state.step(np.array([[0.0], [-3.0]], np.float32), second)
    assert state.values()[1, 0] == pytest.approx(0.05, rel=1e-3)


# -- rows that are not touched ---------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [Ftrl(), AdaGrad(), Adam()], ids=str)
def test_positions_below_0_are_skipped(optimizer: Optimizer) -> None:
    state = State(optimizer, rows=6, width=2, scale=0.3)
    state.step(np.ones((6, 2), np.float32))
    before = state.state.copy()
    state.step(np.ones((6, 2), np.float32), np.zeros(6, bool))
    np.testing.assert_array_equal(state.state, before)
    out = np.full((6, 2), np.float32(3))
    state.kernel.read(state.state, np.full(6, -1, np.int64), out, 0)
    assert (out == 3).all()


# -- start values ----------------------------------------------------------------------------------


def table(seed: int = 1, capacity: int = 1024, scale: float = 0.25, width: int = 3) -> Table:
    linear = Segment("linear", 1, Ftrl())
    embedding = Segment("embedding", width, AdaGrad(), scale)
    return Table(TableSpec("t", (linear, embedding)), seed, capacity=capacity)


def pushed(of: Table, keys: npt.NDArray[np.uint64], parts: int = 1) -> Floats:
    """The values of rows that were made by gradients of 0."""
    for part in np.array_split(keys, parts):
        of.push(part, np.zeros((len(part), of.spec.width), np.float32), None, 1)
    return of.pull(keys)[0]


def test_start_values_follow_from_the_key_and_the_seed_alone() -> None:
    random = np.random.default_rng(6)
    keys = np.unique(random.integers(1, 1 << 64, 3000, np.uint64))
    values = pushed(table(), keys)
    backwards = pushed(table(capacity=7), keys[::-1].copy(), parts=11)
    np.testing.assert_array_equal(backwards[::-1], values)
    # after others, and only some of them
    other = table()
    pushed(other, random.integers(1, 1 << 64, 5000, np.uint64))
    np.testing.assert_array_equal(pushed(other, keys[::5].copy()), values[::5])
    # the first step is taken from what was pulled before the row was there
    np.testing.assert_array_equal(table().pull(keys)[0], values)
    assert not table().pull(keys)[1].any()
    # FTRL's are 0
    assert (values[:, 0] == 0).all()
    another = pushed(table(seed=2), keys)
    assert (another[:, 1:] != values[:, 1:]).mean() > 0.99


@pytest.mark.parametrize("hashed", [True, False], ids=["hashes", "small numbers"])
def test_start_values_are_uniform_and_independent(hashed: bool) -> None:
    count, scale = 40_000, 0.25
    random = np.random.default_rng(7)
    keys = np.arange(1, count + 1, dtype=np.uint64)
    if hashed:
        keys = np.unique(random.integers(1, 1 << 64, count, np.uint64))
    values = table(scale=scale).pull(keys)[0][:, 1:].astype(np.float64) / scale
    assert (np.abs(values) <= 1).all()
    assert values.min() < -0.999
    assert values.max() > 0.999
    # Kolmogorov and Smirnov: the distance is above 1.95 / sqrt(n) once in a thousand
    for column in values.T:
        ranks = np.arange(1, len(column) + 1) / len(column)
        assert np.abs((np.sort(column) + 1) / 2 - ranks).max() < 1.95 / math.sqrt(len(column))
    apart = np.corrcoef(np.concatenate([values[1:], values[:-1]], axis=1).T)
    assert np.abs(apart - np.eye(len(apart))).max() < 5 / math.sqrt(count)
