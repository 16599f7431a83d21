"""Steps a sample: against an optimizer in Python that sees one sample at a time.

What it is held against has no batches, no states that travel and no numba: a dictionary of numbers
for each key, and a loop over samples.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pytest

from configuration.reading import ConfigError
from tests.trainer import runs
from trainer.config.sections import StepsPer
from trainer.evaluation.tally import Layout
from trainer.features.batch import Targets
from trainer.features.chunk import Chunk
from trainer.features.encode import Encoder
from trainer.features.keys import keys_of
from trainer.limits import MAX_GRADIENT
from trainer.losses import objective
from trainer.losses.row_gradient import NUMBERS, action_gradient
from trainer.losses.targets import LossKind, LossRules
from trainer.models import bags
from trainer.models.by_sample import Walker
from trainer.run.batch_steps import BatchSteps
from trainer.run.learner import Learner
from trainer.run.sample_steps import SampleSteps
from trainer.run.steps import Steps
from trainer.server.averages import divisors, effective
from trainer.server.client import RemoteParameters
from trainer.server.host import Host
from trainer.server.parameters import LocalParameters
from trainer.server.replicas import Replica
from trainer.server.routing import Routing
from trainer.server.shard import Push, Shard, TablePush
from trainer.server.shard_file import check_snapshot, snapshot_from_bytes, snapshot_to_bytes
from trainer.server.sharing import Sharing
from trainer.spec import AdaGrad, Adam, Ftrl, ModelSpec, Optimizer, Segment, Slot, TableSpec
from trainer.table.optimizers import Floats

ROWS = 700
FTRL, ADAGRAD = Ftrl(alpha=0.4, beta=0.7, l1=0.05, l2=0.1), AdaGrad(rate=0.3, initial=0.2)
LOSSES: tuple[LossKind, ...] = ("plain", "fnw", "es_dfm", "defer")
BASE = (-0.5, 0.25)
RULES = LossRules("plain", ("a0", "a1"), None)


def spec_of(loss: LossKind = "plain", admit_after: int = 1) -> ModelSpec:
    """Two actions. FTRL for users, tags and the bias, AdaGrad for prices."""
    heads: tuple[str, ...] = ("click", "buy")
    base: tuple[float, ...] = BASE
    if loss in ("es_dfm", "defer"):
        heads, base = (*heads, "dp:click", "dp:buy"), (*BASE, -1.0, 0.0)

    def table(name: str, optimizer: Optimizer, after: int = 1) -> TableSpec:
        return TableSpec(name, (Segment("linear", len(heads), optimizer),), after)

    return ModelSpec(
        "lr",
        heads,
        (
            Slot("user", "user", "category", 0),
            Slot("price", "price", "value", 1),
            Slot("tags", "tags", "category", 0),
            Slot("bias", None, "value", 2),
        ),
        (table("t0", FTRL, admit_after), table("t1", ADAGRAD), table("t2", FTRL)),
        base=base,
    )


def rules_of(loss: LossKind) -> LossRules:
    sampled: dict[str, Any] = {"sampling": "log_odds", "rate": 0.5} if loss == "plain" else {}
    return LossRules(loss, ("click", "buy"), None if loss == "plain" else 0, **sampled)


@dataclass
class Samples:
    """`features`: of each row, numbers by (slot, value); a value that it has twice counts twice."""

    chunk: Chunk
    targets: Targets
    features: list[dict[tuple[str, str], float]]


def samples_of(spec: ModelSpec, loss: LossKind, seed: int = 0) -> Samples:
    """Lists with repeated values, missing values, rows that count for nothing."""
    random = np.random.default_rng(seed)
    users = [f"u{n}" for n in np.minimum(random.geometric(0.2, ROWS), 30)]
    tags = [random.choice(list("abc"), int(random.integers(0, 4))).tolist() for _ in range(ROWS)]
    prices = [None if random.random() < 0.2 else float(n) / 8 for n in random.integers(-9, 9, ROWS)]
    table = pa.table(
        {
            "user": pa.array(users),
            "price": pa.array(prices, pa.float64()),
            "tags": pa.array(tags, pa.list_(pa.string())),
            "event_time": pa.array(range(ROWS), pa.int64()),
        }
    )
    shape = ROWS, 2
    effect = np.array([len(user) + (price or 0) for user, price in zip(users, prices, strict=True)])
    labels = (random.random(shape) < 1 / (1 + np.exp(2.5 - effect))[:, None]).astype(np.float32)
    weights = random.choice(np.array([0, 1, 2.5], np.float32), shape)
    late = shape if loss in ("es_dfm", "defer") else (ROWS, 0)
    delayed = (random.random(late) < 0.3).astype(np.float32)
    targets = Targets(labels, weights, delayed, random.choice(np.array([0, 1], np.float32), late))
    features = []
    for user, price, of_row in zip(users, prices, tags, strict=True):
        made: dict[tuple[str, str], float] = defaultdict(float)
        made["user", user] += 1
        made["bias", ""] += 1
        for tag in of_row:
            made["tags", tag] += 1
        if price is not None:
            made["price", ""] += price
        features.append(dict(made))
    return Samples(Encoder(spec).chunk(table, targets), targets, features)


# -- the slow learner ------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def residuals(
    rules: LossRules, logits: list[float], targets: Targets, row: int
) -> tuple[list[float], list[float]]:
    """The loss's gradient by the logits, and how much the row counts: from the page's table."""
    of: list[float] = []
    late: list[float] = []
    counts = []
    for a in range(2):
        y, w = float(targets.labels[row, a]), float(targets.weights[row, a])
        p = sigmoid(logits[a])
        importance = 1.0
        if rules.loss == "fnw":
            importance = 1 + p if y else (1 - p) * (1 + p)
        elif rules.loss != "plain":
            d = sigmoid(logits[2 + a])
            v, dw = float(targets.delayed[row, a]), float(targets.delayed_weights[row, a])
            if rules.loss == "es_dfm":
                importance = 1 + d if y else (1 + d) * (1 - p) / (1 - p + d)
                dw *= 1 + d if v else (1 - d) * (1 + d)
            else:
                importance = p / (p - min(d, p) / 2) if y else (1 - p) / (1 - p + d / 2)
            late.append(dw * (d - v))
        of.append(w * importance * (sigmoid(logits[a] + rules.offset) - y))
        counts.append(w * importance * (1 if y else math.exp(rules.offset)))
    return of + late, counts


@dataclass
class Slow:
    """One optimizer's state for each key and head: z and n, or the weight and n."""

    spec: ModelSpec
    rules: LossRules
    states: dict[tuple[str, str], list[list[float]]] = field(default_factory=dict)

    def state(self, key: tuple[str, str]) -> list[list[float]]:
        start = ADAGRAD.initial if key[0] == "price" else 0.0
        return self.states.setdefault(key, [[0.0, start] for _ in self.spec.heads])

    def weight(self, key: tuple[str, str], head: int) -> float:
        first, n = self.state(key)[head]
        if key[0] == "price":
            return first
        if abs(first) <= FTRL.l1:
            return 0.0
        shrunk = math.copysign(FTRL.l1, first) - first
        return shrunk / ((FTRL.beta + math.sqrt(n)) / FTRL.alpha + FTRL.l2)

    def logits(self, features: dict[tuple[str, str], float]) -> list[float]:
        return [
            base + sum(x * self.weight(key, h) for key, x in features.items())
            for h, base in enumerate(self.spec.base)
        ]

    def predict(
        self, features: dict[tuple[str, str], float], targets: Targets, row: int
    ) -> tuple[list[float], list[float]]:
        """The actions' logits, and how much the row counts."""
        logits = self.logits(features)
        return logits[:2], residuals(self.rules, logits, targets, row)[1]

    def learn(self, features: dict[tuple[str, str], float], targets: Targets, row: int) -> None:
        gradient, _ = residuals(self.rules, self.logits(features), targets, row)
        for key, x in features.items():
            for h, state in enumerate(self.state(key)):
                g, w, n = gradient[h] * x, self.weight(key, h), state[1]
                state[1] += g * g
                if key[0] == "price":
                    state[0] -= ADAGRAD.rate * g / math.sqrt(state[1])
                else:
                    state[0] += g - (math.sqrt(state[1]) - math.sqrt(n)) / FTRL.alpha * w

    def work_through(
        self, features: list[dict[tuple[str, str], float]], targets: Targets, batch: int
    ) -> list[tuple[list[float], list[float]]]:
        """All rows, one after the other. The rows of a batch are predicted before it is learned."""
        predicted = []
        for start in range(0, len(features), batch):
            rows = range(start, min(start + batch, len(features)))
            predicted += [self.predict(features[row], targets, row) for row in rows]
            for row in rows:
                self.learn(features[row], targets, row)
        return predicted


def learned(
    spec: ModelSpec, rules: LossRules, samples: Samples, batch: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Shard, list[Floats], list[Floats]]:
    """The shard; and of each batch what was predicted, and how much it counted."""
    logits, counted = [], []
    layout = Layout(rules.actions, 3_600_000, (), ("user", "price", "tags"))
    learner = Learner(spec, rules, layout, batch, "sample")
    walk = learner._steps.learn

    def noted(*arguments: Any) -> Any:
        made = walk(*arguments)
        logits.append(made.logits)
        counted.append(made.counted)
        return made

    monkeypatch.setattr(learner._steps, "learn", noted)
    shard = Shard(spec, contributions=None, has_dense=True)
    parameters = LocalParameters(shard)
    for number, start in enumerate(range(0, ROWS, batch)):
        part = samples.chunk.batch(start, min(batch, ROWS - start), by_row=True)
        learner.learn(part, parameters, number, 0)
    return shard, logits, counted


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch", [1, 7, 128, ROWS])
def test_batches_of_any_size_learn_what_one_sample_after_the_other_does(
    batch: int, loss: LossKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, rules = spec_of(loss), rules_of(loss)
    samples = samples_of(spec, loss)
    shard, logits, counted = learned(spec, rules, samples, batch, monkeypatch)
    slow = Slow(spec, rules)
    expected = slow.work_through(samples.features, samples.targets, batch)
    np.testing.assert_allclose(np.concatenate(logits), [of for of, _ in expected], atol=2e-5)
    np.testing.assert_allclose(np.concatenate(counted), [c for _, c in expected], atol=2e-5)
    found = {
        int(key): state
        for rows in shard.snapshot().tables
        for key, state in zip(rows.keys, rows.states[0], strict=True)
    }
    assert len(found) == len(slow.states)
    for key, state in slow.states.items():
        ours = found[int(keys_of(key[0], [key[1]])[0])].reshape(2, -1).T
        np.testing.assert_allclose(ours, state, rtol=2e-5, atol=2e-5, err_msg=str(key))
    # it has learned something
    assert np.abs([slow.logits(of) for of in samples.features[-100:]]).max() > 1


@pytest.mark.parametrize(("kind", "loss"), [*(("lr", loss) for loss in LOSSES), ("fm", "plain")])
def test_rows_are_predicted_as_with_a_step_per_batch(kind: str, loss: LossKind) -> None:
    """So the metrics of both are of the same thing: what a model says that does not know the labels
    of the batch.
    """
    spec, rules = (spec_of(loss), rules_of(loss)) if kind == "lr" else (machine_of(2, 0.1), RULES)
    samples = samples_of(spec, loss)
    shard = Shard(spec, contributions=None, has_dense=True)
    layout = Layout(rules.actions, 3_600_000, (), ("user", "price", "tags"))
    Learner(spec, rules, layout, 200, "sample").learn(
        samples.chunk.batch(0, 200, by_row=True), LocalParameters(shard), 0, 0
    )
    steps: list[Steps] = [BatchSteps(spec, rules, 300), SampleSteps(spec, rules)]
    made = []
    for of in steps:
        batch = samples.chunk.batch(200, 300, by_row=of.states)
        keys = [bag.keys for bag in batch.tables]
        made.append(of.learn(batch, shard.pull(0, keys, dense=True, states=of.states)))
    by_batch, by_sample = made
    np.testing.assert_allclose(by_sample.logits, by_batch.logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(by_sample.counted, by_batch.counted, rtol=1e-4, atol=1e-4)
    assert np.ptp(by_batch.logits) > 1


def test_the_steps_of_a_batch_are_others() -> None:
    """Else the test before this one could not fail."""
    spec, rules = spec_of(), rules_of("plain")
    samples = samples_of(spec, "plain")
    layout = Layout(rules.actions, 3_600_000, (), ("user", "price", "tags"))
    shards = []
    both: tuple[StepsPer, ...] = ("batch", "sample")
    for steps in both:
        shard = Shard(spec, contributions=None, has_dense=True)
        learner = Learner(spec, rules, layout, ROWS, steps)
        part = samples.chunk.batch(0, ROWS, by_row=steps == "sample")
        learner.learn(part, LocalParameters(shard), 0, 0)
        shards.append(shard.tables[2].all_rows().states[0])
    assert np.abs(shards[0] - shards[1]).max() > 1


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("offset", [0.0, 1.5])
def test_a_row_has_the_gradient_that_jax_finds(loss: LossKind, offset: float) -> None:
    random = np.random.default_rng(3)
    rows, late = 400, 2 if loss in ("es_dfm", "defer") else 0
    logits = random.normal(0, 4, (rows, 2 + late)).astype(np.float32)
    labels, delayed = ((random.random((rows, n)) < 0.5).astype(np.float32) for n in (2, late))
    weights, late_weights = (random.exponential(1, (rows, n)).astype(np.float32) for n in (2, late))
    targets = labels, weights, delayed, late_weights
    expected = jax.grad(lambda x: objective.row_losses(loss, x, *targets, offset))(logits)
    counts = objective.evaluation_weights(loss, logits, labels, weights, offset)
    for row, a in itertools.product(range(rows), range(2)):
        of_late = (0.0, np.float32(0), np.float32(0))
        if late:
            of_late = (float(logits[row, 2 + a]), delayed[row, a], late_weights[row, a])
        gradient, of_delay, counted, finite = action_gradient(
            NUMBERS[loss], offset, float(logits[row, a]), labels[row, a], weights[row, a], *of_late
        )
        assert finite
        found = [gradient, of_delay] if late else [gradient]
        np.testing.assert_allclose(found, expected[row, a::2], rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(counted, counts[row, a], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [0.0, 90.0, 800.0, 1e9])
def test_the_gradient_is_finite_for_any_logits(loss: LossKind, size: float) -> None:
    one = np.float32(1)
    for sign, other, label in ((a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (0, 1)):
        of_action = sign * size, one * label, one
        assert all(
            np.isfinite(
                action_gradient(NUMBERS[loss], 0.0, *of_action, other * size, *of_action[1:])
            )
        )


def test_a_key_that_is_not_admitted_yet_is_not_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it predicts must not be what its worker alone has made of it, and then forgets."""
    spec, rules = spec_of(admit_after=ROWS + 1), rules_of("plain")
    samples = samples_of(spec, "plain")
    shard, logits, _ = learned(spec, rules, samples, 100, monkeypatch)
    assert shard.tables[0].rows == 0
    admitted = [
        {key: x for key, x in features.items() if key[0] in ("price", "bias")}
        for features in samples.features
    ]
    expected = Slow(spec, rules).work_through(admitted, samples.targets, 100)
    np.testing.assert_allclose(np.concatenate(logits), [of for of, _ in expected], atol=2e-5)


def test_a_row_without_a_finite_gradient_is_left_out() -> None:
    spec = spec_of()
    samples = samples_of(spec, "plain")
    samples.targets.weights[5] = np.inf
    batch = samples.chunk.batch(0, 20, by_row=True)
    states = [np.zeros((len(bag.keys), 4), np.float32) for bag in batch.tables]
    walked = Walker(spec, "plain", 0.0).walk(
        batch, states, [np.ones(len(s), np.uint8) for s in states]
    )
    assert walked.refused == 1
    assert (walked.counted[5] == 0).all()
    assert np.isfinite(walked.logits).all()
    assert all(np.isfinite(of).all() for of in walked.changes)
    assert any((of != 0).any() for of in walked.changes)


# -- factorization machines ------------------------------------------------------------------------


def machine_of(heads: int, dense_rate: float) -> ModelSpec:
    """Users, tags and prices have embeddings, the bias has none."""
    names = tuple(f"a{n}" for n in range(heads))
    linear = Segment("linear", heads, FTRL)
    both = (linear, Segment("embedding", 3, ADAGRAD, 0.5))
    slots = spec_of().slots
    tables = (TableSpec("t0", both), TableSpec("t1", both), TableSpec("t2", (linear,)))
    return ModelSpec("fm", names, slots, tables, embedding=3, dense=Adam(rate=dense_rate), seed=4)


def learned_from(
    spec: ModelSpec, samples: Samples, steps: StepsPer, batch: int, rows: int
) -> tuple[Shard, Any]:
    """The shard, and the metrics; `rows` are the first ones."""
    layout = Layout(spec.heads, 3_600_000, (), ("user", "price", "tags"))
    learner = Learner(spec, LossRules("plain", spec.heads), layout, batch, steps)
    shard = Shard(spec, contributions=None, has_dense=True)
    for number, start in enumerate(range(0, rows, batch)):
        end, by_row = min(batch, rows - start), steps == "sample"
        part = samples.chunk.batch(start, end, by_row=by_row)
        learner.learn(part, LocalParameters(shard), number, 0)
    measures = learner.take_tally().whole()[0].measures
    return shard, measures


def assert_same_rows(one: Shard, other: Shard) -> None:
    for ours, theirs in zip(one.tables, other.tables, strict=True):
        mine, their = ours.all_rows().sorted(), theirs.all_rows().sorted()
        np.testing.assert_array_equal(mine.keys, their.keys)
        for state, another in zip(mine.states, their.states, strict=True):
            np.testing.assert_allclose(state, another, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 16, 120])
def test_a_machine_learns_from_a_batch_what_it_learns_from_batches_of_one(batch: int) -> None:
    """The interactions' weights, which take a step per batch, are held still."""
    spec = machine_of(2, dense_rate=1e-12)
    samples = samples_of(spec, "plain")
    one, expected = learned_from(spec, samples, "batch", 1, 120)
    shard, measures = learned_from(spec, samples, "sample", batch, 120)
    assert_same_rows(shard, one)
    if batch == 1:
        assert measures.log_loss == pytest.approx(expected.log_loss, abs=1e-5)
    # the embeddings were learned: AdaGrad's n, which begins with 0.2
    assert np.abs(shard.tables[0].all_rows().states[1][:, 3:] - ADAGRAD.initial).max() > 0.5
    another, _ = learned_from(spec, samples, "batch", 120, 120)
    with pytest.raises(AssertionError):
        assert_same_rows(another, one)


@pytest.mark.parametrize("heads", [1, 2])
def test_a_machine_moves_its_dense_weights_as_jax_says(heads: int) -> None:
    spec = machine_of(heads, dense_rate=0.1)
    samples = samples_of(machine_of(2, 0.1), "plain")
    of = samples.targets
    of.labels, of.weights = of.labels[:, :heads].copy(), of.weights[:, :heads].copy()
    one, _ = learned_from(spec, samples, "batch", 1, 40)
    shard, _ = learned_from(spec, samples, "sample", 1, 40)
    assert_same_rows(shard, one)
    assert (shard.dense is None) == (heads == 1)
    if shard.dense is not None and one.dense is not None:
        np.testing.assert_allclose(shard.dense.values, one.dense.values, atol=1e-3)
        assert np.abs(shard.dense.values - 1).max() > 0.1


def test_the_gradient_of_the_dense_weights_is_bounded() -> None:
    spec = machine_of(2, dense_rate=0.1)
    samples = samples_of(spec, "plain")
    samples.targets.weights[:] = 1e38
    batch = samples.chunk.batch(0, 20, by_row=True)
    states = [
        np.full((len(bag.keys), table.floats), 1e5, np.float32)
        for bag, table in zip(batch.tables, spec.tables, strict=True)
    ]
    known = [np.ones(len(s), np.uint8) for s in states]
    walked = Walker(spec, "plain", 0.0).walk(batch, states, known, np.ones(6, np.float32))
    assert walked.dense is not None
    assert np.abs(walked.dense).max() == np.float32(MAX_GRADIENT)
    assert all(np.isfinite(of).all() for of in walked.changes)


# -- several workers -------------------------------------------------------------------------------

#: Times a small number: a key anywhere on the ring.
SPREAD = np.uint64(0x9E3779B97F4A7C15)
SMALL = ModelSpec(
    "lr",
    ("click",),
    (Slot("user", "user", "category", 0),),
    (TableSpec("t0", (Segment("linear", 1, Ftrl()),)),),
)


def changed(worker: int, changes: dict[int, tuple[float, float]]) -> Push:
    table = TablePush(
        np.array(list(changes), np.uint64), np.array(list(changes.values()), np.float32), None
    )
    return Push(worker, 0, 0, 0, [table], None, changes=True)


def test_changes_of_a_step_are_averaged_over_the_workers_that_made_them() -> None:
    shard = Shard(SMALL, contributions=3, has_dense=False)
    shard.push(changed(2, {1: (6.0, 3.0), 2: (5.0, 1.0)}))
    shard.push(changed(0, {1: (3.0, 9.0), 3: (7.0, 2.0)}))
    # a key whose samples count for nothing is pushed, too, and was not moved
    shard.push(changed(1, {3: (0.0, 0.0), 2: (1.0, 2.0)}))
    shard.settle(1)
    rows = shard.snapshot().tables[0].sorted()
    assert rows.keys.tolist() == [1, 2, 3]
    # of n there came 3 and 9, 1 and 2, and 2 from one worker alone
    one, two = 12**2 / (3**2 + 9**2), 3**2 / (1 + 2**2)
    expected = [[9 / one, 12 / one], [6 / two, 3 / two], [7.0, 2.0]]
    np.testing.assert_array_equal(rows.states[0], np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("learned", "expected"),
    [([3.0], 1), ([3.0] * 8, 8), ([0.0, 3.0, 0.0], 1), ([1e30, 1e-30], 1), ([0.0, 0.0], 1)],
)
def test_the_divisor_is_how_many_workers_have_learned_a_share(
    learned: list[float], expected: float
) -> None:
    n = np.array(learned, np.float32).astype(np.float64)
    found = effective(np.sum(n, keepdims=True), np.sum(n * n, keepdims=True))
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


def test_each_number_of_a_state_is_divided_by_what_its_own_n_says() -> None:
    """Two heads, and an embedding of two numbers: z z n n e e n n."""
    linear, embedding = Segment("linear", 2, FTRL), Segment("embedding", 2, ADAGRAD, 0.1)
    table = TableSpec("t0", (linear, embedding))
    of_n = np.array([[1.0, 1, 1, 9, 0, 0, 2, 2], [0, 5, 1, 1, 1, 0, 2, 0]])
    found = divisors(table, of_n.sum(0, keepdims=True), np.square(of_n).sum(0, keepdims=True))
    uneven = 100 / 82
    assert found.tolist() == [[2.0, uneven, 2.0, uneven, 2.0, 1.0, 2.0, 1.0]]


def test_a_step_of_huge_changes_stays_finite() -> None:
    shard = Shard(SMALL, contributions=2, has_dense=False)
    for worker in range(2):
        shard.push(changed(worker, {1: (MAX_GRADIENT, MAX_GRADIENT**2)}))
    shard.settle(1)
    state = shard.snapshot().tables[0].states[0]
    np.testing.assert_allclose(state, [[MAX_GRADIENT, MAX_GRADIENT**2]], rtol=1e-6)


@pytest.mark.parametrize("steps", ["batch", "sample"])
def test_a_step_that_waits_is_copied_as_it_is(steps: str) -> None:
    columns = 2 if steps == "sample" else 1
    table = TablePush(np.array([7], np.uint64), np.ones((1, columns), np.float32), None)
    shard = Shard(SMALL, contributions=2, has_dense=False)
    shard.push(Push(0, 0, 0, 0, [table], None, changes=steps == "sample"))
    copy = Shard(SMALL, contributions=2, has_dense=False)
    copy.load(snapshot_from_bytes(snapshot_to_bytes(shard.snapshot())))
    for of in (shard, copy):
        of.push(Push(1, 0, 0, 0, [table], None, changes=steps == "sample"))
        of.settle(1)
    assert (
        copy.snapshot().tables[0].states[0].tolist()
        == (shard.snapshot().tables[0].states[0].tolist())
        == [[1.0, 1.0] if steps == "sample" else [2.0, 4.0]]
    )


def shared(samples: Sequence[int]) -> float:
    """The divisor, by how many samples each worker has of a key."""
    most = sum(of * of for of in samples)
    return sum(samples) ** 2 / most if most else 1.0


@pytest.mark.parametrize("seed", range(5))
def test_a_key_is_shared_by_the_workers_whose_newest_pull_has_samples_of_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    sharing, newest = Sharing(), dict[int, dict[int, int]]()
    for _ in range(60):
        worker = int(random.integers(0, 5))
        # each table has keys of its own; some batches are many times as large as others
        size = int(random.choice([30, 2_000]))
        tables = [
            random.choice(4_000, size, replace=False).astype(np.uint64) + t for t in (1, 4_001)
        ]
        samples = [random.integers(0, 9, size).astype(np.uint32) for _ in tables]
        # an answer that was lost is asked for again, and counts once
        for _ in range(int(random.integers(1, 3))):
            found = sharing.pulled(worker, tables, samples)
        newest[worker] = dict(
            zip(np.concatenate(tables).tolist(), np.concatenate(samples).tolist(), strict=True)
        )
        for keys, of_keys in zip(tables, found, strict=True):
            expected = [shared([has.get(k, 0) for has in newest.values()]) for k in keys.tolist()]
            np.testing.assert_allclose(of_keys, expected, rtol=1e-6)


def test_many_keys_are_counted_exactly() -> None:
    """Six workers with 200,000 keys each that nobody else has."""
    sharing, size = Sharing(), 200_000
    for worker in range(6):
        keys = (np.arange(size, dtype=np.uint64) + worker * size + 1) * SPREAD
        (found,) = sharing.pulled(worker, [keys], [np.full(size, 3, np.uint32)])
        assert (found == 1).all()


def test_samples_without_weight_share_no_key() -> None:
    spec = spec_of()
    samples = samples_of(spec, "plain")
    batch = samples.chunk.batch(0, ROWS, by_row=True)
    expected = dict[int, int]()
    for features, weights in zip(samples.features, samples.targets.weights, strict=True):
        for slot, value in features:
            key = int(keys_of(slot, [value])[0])
            expected[key] = expected.get(key, 0) + int(weights.any())
    found = dict[int, int]()
    for bag, counts in zip(batch.tables, bags.samples(batch), strict=True):
        found |= dict(zip(bag.keys.tolist(), counts.tolist(), strict=True))
    assert found == expected
    # some samples have no weight
    assert sum(found.values()) < sum(int(bag.counts.sum()) for bag in batch.tables)


class Direct:
    """A connection to servers in this process, which answer at once. `trainer.server.channel`."""

    def __init__(self, hosts: dict[int, Host]) -> None:
        self._hosts, self._answers = hosts, list[Any]()

    def connect(self, server: int, address: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def send(self, server: int, frames: Any) -> None:
        received = self._hosts[server].receive(None, [bytes(frame) for frame in frames])
        self._answers += [[bytes(frame) for frame in answer.frames] for answer in received]

    def receive(self, timeout_ms: int, also: Any = None) -> list[Any]:
        answers, self._answers = self._answers, []
        return answers


@pytest.mark.parametrize("workers", [1, 4])
def test_without_a_barrier_a_change_is_divided_by_the_workers_of_its_key(workers: int) -> None:
    hosts = {}
    for server in range(2):
        hosts[server] = host = Host(server, lambda work: work())
        host.replicas.spec, host.replicas.epoch = SMALL, 1
        shard = Shard(SMALL, contributions=None, has_dense=False)
        host.replicas.held[server] = Replica(shard, primary=True)
    those = []
    for worker in range(workers):
        channel = Direct(hosts)
        those.append(RemoteParameters(SMALL, worker, channel, lambda: None))
        those[-1].reroute(Routing(1, {0: 0, 1: 1}, 16, None))

    def keys(worker: int) -> list[Any]:
        # one that all have, spread over both servers with many that are each worker's own
        own = np.arange(50, dtype=np.uint64) + 1000 * (worker + 1)
        return [np.concatenate([np.array([1], np.uint64), own]) * SPREAD]

    samples = [np.full(51, 5, np.uint32)]
    for worker, parameters in enumerate(those):
        parameters.pull(0, keys(worker), states=True, samples=samples)
    for worker, parameters in enumerate(those):  # as in the second batch of a run
        pulled = parameters.pull(0, keys(worker), states=True, samples=samples)
        assert pulled.tables[0][0].shape == (51, 2)
        change = np.full((51, 2), 12.0, np.float32)
        parameters.push(0, 0, 7, [change], [None], None, changes=True)
    found = {
        int(key): state.tolist()
        for host in hosts.values()
        for replica in host.replicas.held.values()
        for key, state in zip(
            replica.shard.tables[0].keys(),
            replica.shard.tables[0].all_rows().states[0],
            strict=True,
        )
    }
    assert len(found) == 1 + 50 * workers
    # the common one as far as one worker has moved it, and each worker's own ones, too
    assert all(state == [12.0, 12.0] for state in found.values())


# -- whole runs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.samples(tmp_path_factory.mktemp("samples"))


def test_a_run_learns_the_same_in_batches_of_any_size(folder: Path, tmp_path: Path) -> None:
    made = [
        runs.train(
            runs.configured(
                folder, tmp_path / str(batch), f"train.batch={batch}", "train.steps=sample"
            )
        )
        for batch in (64, 1_000, 4_096)
    ]
    # each row is predicted before its batch is learned: of a larger one, with less of what is near
    assert made[0].log_loss < made[1].log_loss < made[2].log_loss
    for run in made[1:]:
        for ours, theirs in zip(run.parts.tables, made[0].parts.tables, strict=True):
            np.testing.assert_array_equal(ours.keys, theirs.keys)
            np.testing.assert_allclose(ours.states[0], theirs.states[0], rtol=1e-5, atol=1e-5)
    check_snapshot("run", made[0].parts, made[0].session.runner.job.spec)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("model.type=deepfm",), 'a pass through the dense layers after every sample; set "batch"'),
        (("model.type=fm", "optimizer.embedding={type='adam'}"), 'the moments of "adam" cannot be'),
        (("optimizer.linear={type='adam'}",), 'the moments of "adam" cannot be added'),
        (("slots.hour.optimizer={type='adam'}",), 'the moments of "adam" cannot be added'),
    ],
)
def test_what_cannot_be_learned_sample_by_sample_is_refused(
    settings: tuple[str, ...], message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        runs.configured(folder, tmp_path / "run", "train.steps=sample", *settings)
    runs.configured(folder, tmp_path / "run", *settings)
