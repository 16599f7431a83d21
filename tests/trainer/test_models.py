"""Models against loops over Python numbers, and their gradients against differences of the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import optax
import pyarrow as pa
import pytest
from jax.flatten_util import ravel_pytree

from trainer.evaluation.tally import Layout
from trainer.features.batch import Batch, Targets
from trainer.features.encode import Encoder
from trainer.losses.targets import LossRules
from trainer.models import bags
from trainer.models.network import Network, embedded_slots, initial_dense
from trainer.run.learner import Learner
from trainer.server.dense import Dense, has_dense
from trainer.server.parameters import LocalParameters, Meanwhile, nothing
from trainer.server.shard import Pulled, Shard
from trainer.spec import AdaGrad, Adam, Ftrl, ModelKind, ModelSpec, Segment, Slot, TableSpec
from trainer.table.optimizers import Floats
from trainer.table.table import Counts, Keys

Doubles = npt.NDArray[np.float64]

EMBEDDING, HIDDEN = 3, (4, 5)
ADAGRAD, FTRL = AdaGrad(rate=0.2, initial=0.05), Ftrl(alpha=0.3, beta=0.5, l1=0.01, l2=0.2)
KINDS: list[tuple[ModelKind, int]] = [
    ("lr", 1), ("lr", 2), ("fm", 1), ("fm", 3), ("deepfm", 1), ("deepfm", 2),
]  # fmt: skip


def spec_of(kind: ModelKind, heads: int, seed: int = 0) -> ModelSpec:
    """Two tables with embeddings, the slots of which take turns, and the bias's."""
    linear = Segment("linear", heads, FTRL)
    both = (linear, Segment("embedding", EMBEDDING, ADAGRAD, 0.5))
    wide = (linear,) if kind == "lr" else both
    return ModelSpec(
        kind,
        tuple(f"a{n}" for n in range(heads)),
        (
            Slot("user", "user", "category", 0),
            Slot("price", "price", "value", 1),
            Slot("tags", "tags", "category", 0),
            Slot("bias", None, "value", 2),
        ),
        (TableSpec("t0", wide), TableSpec("t1", wide), TableSpec("t2", (linear,))),
        embedding=0 if kind == "lr" else EMBEDDING,
        hidden=HIDDEN if kind == "deepfm" else (),
        dense=Adam(rate=0.05),
        seed=seed,
    )


def batch_of(spec: ModelSpec, rows: int, seed: int = 0, users: int = 3) -> Batch:
    """Lists with repeated values, missing values, rows that count for nothing."""
    random = np.random.default_rng(seed)
    tags = [random.choice(list("abc"), int(random.integers(0, 4))).tolist() for _ in range(rows)]
    prices = [None if random.random() < 0.2 else float(random.normal()) for _ in range(rows)]
    table = pa.table(
        {
            "user": pa.array([f"u{n}" for n in random.integers(0, users, rows)], pa.string()),
            "price": pa.array(prices, pa.float32()),
            "tags": pa.array(tags, pa.list_(pa.string())),
            "event_time": pa.array(range(rows), pa.int64()),
        }
    )
    shape = rows, len(spec.heads)
    labels = (random.random(shape) < 0.4).astype(np.float32)
    weights = random.choice(np.array([0, 1, 2.5], np.float32), shape)
    none: Floats = np.zeros((rows, 0), np.float32)
    return Encoder(spec).chunk(table, Targets(labels, weights, none, none)).batch(0, rows)


def learner_of(spec: ModelSpec, full: int) -> Learner:
    layout = Layout(spec.heads, 3_600_000, (), ("user", "price", "tags"))
    return Learner(spec, LossRules("plain", spec.heads), layout, full)


class Given:
    """Parameters that stay what they are. `pushed` is what came for them."""

    def __init__(self, tables: Sequence[Floats], dense: Floats | None) -> None:
        self._tables, self._dense = tables, dense
        self.pushed: list[tuple[Sequence[Floats], Floats | None]] = []

    def pull(
        self,
        step: int,
        keys: Sequence[Keys],
        *,
        states: bool = False,
        samples: Any = None,
        meanwhile: Meanwhile = nothing,
    ) -> Pulled:
        meanwhile()
        known = [np.ones(len(values), np.uint8) for values in self._tables]
        return Pulled(list(zip(self._tables, known, strict=True)), self._dense)

    def push(
        self,
        sequence: int,
        step: int,
        now: int,
        gradients: Sequence[Floats],
        counts: Sequence[Counts | None],
        dense: Floats | None,
        *,
        changes: bool = False,
        meanwhile: Meanwhile = nothing,
    ) -> None:
        self.pushed.append((gradients, dense))
        meanwhile()


def given(spec: ModelSpec, batch: Batch, seed: int = 1) -> tuple[list[Floats], Floats | None]:
    """Values for the batch's keys, and dense ones."""
    random = np.random.default_rng(seed)
    tables = [
        random.normal(0, 0.7, (len(bag.keys), table.width)).astype(np.float32)
        for bag, table in zip(batch.tables, spec.tables, strict=True)
    ]
    if not has_dense(spec):
        return tables, None
    flat = initial_dense(spec)
    return tables, flat + random.normal(0, 0.2, flat.shape).astype(np.float32)


# -- the slow model --------------------------------------------------------------------------------


def parts(flat: Doubles, *shapes: tuple[int, ...]) -> Iterator[Doubles]:
    start = 0
    for shape in shapes:
        size = int(np.prod(shape))
        yield flat[start : start + size].reshape(shape)
        start += size
    assert start == len(flat)


def slow_logits(
    spec: ModelSpec, batch: Batch, tables: Sequence[Doubles], dense: Doubles | None
) -> Doubles:
    """In float64, a row at a time: fm by pairs of slots, as equation 1 of Rendle 2010 has it."""
    heads = len(spec.heads)
    out = np.zeros((batch.rows, heads))
    sums = np.zeros((batch.rows, len(spec.slots), spec.embedding))
    for bag, values in zip(batch.tables, tables, strict=True):
        for n, slot in enumerate(bag.slots):
            for i in range(int(bag.starts[n]), int(bag.starts[n + 1])):
                row, x = int(bag.row[i]), float(bag.value[i])
                of_key = values[bag.index[i]]
                out[row] += x * of_key[:heads]
                if len(of_key) > heads:
                    sums[row, slot] += x * of_key[heads:]
    if spec.kind == "lr":
        return out
    with_embedding = [n for n, s in enumerate(spec.slots) if len(spec.tables[s.table].segments) > 1]
    widths = [len(with_embedding) * spec.embedding, *spec.hidden, heads]
    # flat: the interaction's weights, then bias and weights of each layer
    shapes: list[tuple[int, ...]] = [] if heads == 1 else [(spec.embedding, heads)]
    if spec.kind == "deepfm":
        for n, m in pairwise(widths):
            shapes += [(m,), (n, m)]
    arrays = list(parts(np.zeros(0) if dense is None else dense, *shapes))
    interaction = np.ones((spec.embedding, heads)) if heads == 1 else arrays.pop(0)
    for row in range(batch.rows):
        for a, b in combinations(with_embedding, 2):
            for j in range(spec.embedding):
                out[row] += sums[row, a, j] * sums[row, b, j] * interaction[j]
        if spec.kind == "deepfm":
            hidden = sums[row, with_embedding].ravel()
            for n in range(0, len(arrays), 2):
                hidden = arrays[n] + hidden @ arrays[n + 1]
                if n + 2 < len(arrays):
                    hidden = np.maximum(hidden, 0)
            out[row] += hidden
    return out


def slow_loss(spec: ModelSpec, batch: Batch, tables: Any, dense: Any) -> float:
    logits, labels = slow_logits(spec, batch, tables, dense), batch.targets.labels
    p = 1 / (1 + np.exp(-logits))
    each = -np.where(labels == 1, np.log(p), np.log(1 - p))
    return float((each * batch.targets.weights).sum())


def slope(loss: Callable[[], float], array: Doubles) -> Doubles:
    """Central differences of a loss that reads `array`, for each number of it."""
    out, step = np.zeros_like(array), 1e-5
    for at in np.ndindex(array.shape):
        kept = array[at]
        array[at] = kept + step
        above = loss()
        array[at] = kept - step
        out[at] = (above - loss()) / (2 * step)
        array[at] = kept
    return out


def slopes(
    spec: ModelSpec, batch: Batch, tables: Sequence[Floats], dense: Floats | None
) -> tuple[list[Doubles], Doubles | None]:
    wide: list[Doubles] = [values.astype(np.float64) for values in tables]
    vector: Doubles | None = None if dense is None else dense.astype(np.float64)

    def loss() -> float:
        return slow_loss(spec, batch, wide, vector)

    return [slope(loss, values) for values in wide], vector if vector is None else slope(
        loss, vector
    )


# -- logits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "heads"), KINDS)
@pytest.mark.parametrize("rows", [1, 13])
def test_logits(kind: ModelKind, heads: int, rows: int) -> None:
    spec = spec_of(kind, heads)
    batch = batch_of(spec, rows, seed=rows)
    tables, dense = given(spec, batch)
    place = embedded_slots(spec)
    linear: Floats = np.zeros((rows, heads), np.float32)
    pooled: Floats = np.zeros((rows, len(place), spec.embedding), np.float32)
    for bag, values in zip(batch.tables, tables, strict=True):
        bags.add_linear(values, bag, linear)
        if values.shape[1] > heads:
            bags.add_pooled(values, bag, heads, pooled, place)
    vector = np.zeros(0, np.float32) if dense is None else dense
    logits = np.asarray(jax.jit(Network(spec).logits)(linear, pooled, vector))
    wide = [values.astype(np.float64) for values in tables]
    expected = slow_logits(spec, batch, wide, None if dense is None else dense.astype(np.float64))
    assert logits.shape == (rows, heads)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_slots_with_embeddings() -> None:
    assert embedded_slots(spec_of("fm", 1)) == {0: 0, 1: 1, 2: 2}
    assert embedded_slots(spec_of("lr", 1)) == {}


def test_dense_parameters_of_a_new_model() -> None:
    assert initial_dense(spec_of("lr", 2)).tolist() == []
    assert initial_dense(spec_of("fm", 1)).tolist() == []
    # so a new model weighs the interaction as one without weights does
    assert initial_dense(spec_of("fm", 2)).tolist() == [1] * EMBEDDING * 2
    one, same, other = (initial_dense(spec_of("deepfm", 1, seed)) for seed in (1, 1, 2))
    assert len(one) == 9 * 4 + 4 + 4 * 5 + 5 + 5 * 1 + 1
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    for kind, heads in KINDS:
        spec = spec_of(kind, heads)
        assert has_dense(spec) == (len(initial_dense(spec)) > 0)
        assert (Dense.initial(spec) is not None) == has_dense(spec)


# -- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "heads"), KINDS)
@pytest.mark.parametrize("full", [6, 64], ids=["full", "filled up"])
def test_gradients_are_the_slopes_of_the_loss(kind: ModelKind, heads: int, full: int) -> None:
    """`full`: a batch of 6 rows is computed as one of 6, or of 8."""
    spec = spec_of(kind, heads)
    batch = batch_of(spec, 6, seed=3)
    tables, dense = given(spec, batch)
    parameters = Given(tables, dense)
    learner = learner_of(spec, full)
    learner.learn(batch, parameters, sequence=0, step=0)
    [(gradients, of_dense)] = parameters.pushed
    expected, expected_dense = slopes(spec, batch, tables, dense)
    for gradient, slope_of in zip(gradients, expected, strict=True):
        assert np.abs(slope_of).max() > 0.01
        np.testing.assert_allclose(gradient, slope_of, rtol=1e-3, atol=2e-5)
    if expected_dense is None:
        assert of_dense is None
    else:
        assert of_dense is not None
        assert (expected_dense != 0).mean() > 0.3
        np.testing.assert_allclose(of_dense, expected_dense, rtol=1e-3, atol=2e-5)
    # what is evaluated is what was learned from
    whole = [m.measures for m in learner.take_tally().whole() if m.slice == "all"]
    assert sum(m.log_loss * m.weight for m in whole) == pytest.approx(
        slow_loss(spec, batch, tables, dense), rel=1e-5
    )


@pytest.mark.parametrize("kind", ["fm", "deepfm"])
def test_heads_share_their_embeddings(kind: ModelKind) -> None:
    """An embedding's gradient is the sum of what each head has for it; a weight's is of one."""
    spec = spec_of(kind, 2)
    assert spec.tables[0].width == 2 + EMBEDDING
    batch = batch_of(spec, 8, seed=5)
    parameters = Given(*given(spec, batch))
    learner = learner_of(spec, 8)
    weights = batch.targets.weights + 1
    pushed = []
    for only in ([1, 1], [1, 0], [0, 1]):
        batch.targets.weights = (weights * np.array(only)).astype(np.float32)
        learner.learn(batch, parameters, 0, 0)
        pushed.append(parameters.pushed[-1][0][0])
    both, first, second = pushed
    np.testing.assert_allclose(both, first + second, rtol=1e-4, atol=1e-5)
    assert (first[:, 1] == 0).all()
    assert (second[:, 0] == 0).all()
    for of_head in (first, second):
        assert np.abs(of_head[:, 2:]).max(axis=1).min() > 0


@pytest.mark.parametrize(("kind", "heads"), [("lr", 1), ("deepfm", 2)])
def test_a_batch_without_rows_has_no_gradients(kind: ModelKind, heads: int) -> None:
    """As the part of a worker may be, when workers share a batch."""
    spec = spec_of(kind, heads)
    batch = batch_of(spec, 0)
    parameters = Given(*given(spec, batch))
    outcome = learner_of(spec, 8).learn(batch, parameters, 0, 0)
    [(gradients, dense)] = parameters.pushed
    assert [g.shape for g in gradients] == [(0, table.width) for table in spec.tables]
    assert dense is None or not dense.any()
    assert (outcome.rows, outcome.keys) == (0, 0)


# -- learning --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "heads"), [("lr", 2), ("fm", 1), ("fm", 3), ("deepfm", 2)])
def test_steps_from_a_new_model_are_those_of_its_optimizers(kind: ModelKind, heads: int) -> None:
    """Pull, gradient, push, over one shard: against slopes, and the optimizers' formulas."""
    spec = spec_of(kind, heads)
    learner = learner_of(spec, 8)
    parameters = LocalParameters(Shard(spec, contributions=None, has_dense=True))
    keys = [bag.keys for bag in batch_of(spec, 40, seed=0).tables]
    first = parameters.pull(0, keys)
    shape = [(len(k), table.width) for k, table in zip(keys, spec.tables, strict=True)]
    z, n = ([np.zeros((rows, heads)) for rows, _ in shape] for _ in range(2))
    squares = [np.full((rows, width - heads), ADAGRAD.initial) for rows, width in shape]
    values: list[Doubles] = [v.astype(np.float64) for v, _ in first.tables]
    adam = optax.adam(spec.dense.rate)
    dense: Any = first.dense
    state: Any = None if dense is None else adam.init(dense)
    for sequence in range(3):
        batch = batch_of(spec, 8, seed=10 + sequence)
        where = [
            [k.tolist().index(key) for key in bag.keys.tolist()]
            for k, bag in zip(keys, batch.tables, strict=True)
        ]
        pulled = [v[at].astype(np.float32) for v, at in zip(values, where, strict=True)]
        gradients, of_dense = slopes(spec, batch, pulled, dense)
        for t, (at, g) in enumerate(zip(where, gradients, strict=True)):
            g_linear, g_embedding = g[:, :heads], g[:, heads:]
            grown = n[t][at] + g_linear**2
            sigma = (np.sqrt(grown) - np.sqrt(n[t][at])) / FTRL.alpha
            z[t][at] += g_linear - sigma * values[t][at, :heads]
            n[t][at] = grown
            rate = 1 / ((FTRL.beta + np.sqrt(grown)) / FTRL.alpha + FTRL.l2)
            shrunk = np.maximum(np.abs(z[t][at]) - FTRL.l1, 0)
            values[t][at, :heads] = -rate * np.sign(z[t][at]) * shrunk
            squares[t][at] += g_embedding**2
            values[t][at, heads:] -= ADAGRAD.rate * g_embedding / np.sqrt(squares[t][at])
        if of_dense is not None:
            updates, state = adam.update(of_dense.astype(np.float32), state)
            dense = np.asarray(optax.apply_updates(dense, updates))
        learner.learn(batch, parameters, sequence, 0)
        now = parameters.pull(0, keys)
        for (found, _), expected in zip(now.tables, values, strict=True):
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)
        if dense is not None:
            assert now.dense is not None
            np.testing.assert_allclose(now.dense, dense, rtol=2e-3, atol=1e-3)
    assert any((v[:, :heads] < 0).any() for v in values)


@pytest.mark.parametrize("kind", ["lr", "fm", "deepfm"])
def test_what_only_an_interaction_can_say(kind: ModelKind) -> None:
    """Whether two letters are of one half of the alphabet: no sum of weights knows it."""
    linear = Segment("linear", 1, FTRL)
    both = (linear, Segment("embedding", 4, AdaGrad(rate=0.2), 0.3))
    spec = ModelSpec(
        kind,
        ("same",),
        (Slot("one", "one", "category"), Slot("other", "other", "category")),
        (TableSpec("t0", (linear,) if kind == "lr" else both),),
        embedding=0 if kind == "lr" else 4,
        hidden=(8,) if kind == "deepfm" else (),
        dense=Adam(rate=0.01),
    )
    random = np.random.default_rng(1)
    rows, batch_rows = 5120, 64
    letters = np.array(list("abcdefgh"))
    one, other = random.integers(0, 8, (2, rows))
    labels = ((one < 4) == (other < 4)).astype(np.float32).reshape(rows, 1)
    none: Floats = np.zeros((rows, 0), np.float32)
    table = pa.table({"one": letters[one], "other": letters[other], "event_time": np.arange(rows)})
    chunk = Encoder(spec).chunk(table, Targets(labels, np.ones_like(labels), none, none))
    layout = Layout(("same",), 3_600_000, (), ("one", "other"))
    learner = Learner(spec, LossRules("plain", ("same",)), layout, batch_rows)
    parameters = LocalParameters(Shard(spec, contributions=None, has_dense=True))
    for sequence, start in enumerate(range(0, rows, batch_rows)):
        if start == rows // 2:
            learner.take_tally()
        learner.learn(chunk.batch(start, batch_rows), parameters, sequence, 0)
    late = next(m.measures for m in learner.take_tally().whole() if m.slice == "all")
    assert late.rows == rows // 2
    if kind == "lr":
        assert late.log_loss > 0.68
    else:
        assert late.log_loss < 0.2


# -- dense parameters on the server ----------------------------------------------------------------


def dense_gradients(spec: ModelSpec, steps: int) -> list[Floats]:
    random = np.random.default_rng(9)
    size = len(initial_dense(spec))
    made = [random.normal(0, 1, size).astype(np.float32) for _ in range(steps)]
    for gradient in made:
        gradient[random.random(size) < 0.3] = 0
    return made


def test_adam_over_the_flat_vector_is_adam_over_the_tree() -> None:
    spec = spec_of("deepfm", 2, seed=4)
    dense = Dense.initial(spec)
    assert dense is not None
    o = spec.dense
    adam = optax.adam(o.rate, b1=o.beta1, b2=o.beta2, eps=o.epsilon)
    # the same numbers in a tree, as the network takes them
    unflatten = Network(spec)._unflatten
    tree: Any = unflatten(dense.values)
    assert len(jax.tree.leaves(tree)) == 7
    state: Any = adam.init(tree)

    def step(gradient: Any, state: Any, tree: Any) -> Any:
        updates, state = adam.update(gradient, state)
        return state, optax.apply_updates(tree, updates)

    compiled = jax.jit(step)
    for gradient in dense_gradients(spec, 30):
        state, tree = compiled(unflatten(gradient), state, tree)
        dense.update(gradient)
        np.testing.assert_allclose(dense.values, ravel_pytree(tree)[0], rtol=1e-6, atol=1e-7)
    assert dense.values.dtype == np.float32


def test_dense_parameters_go_on_as_they_were() -> None:
    spec = spec_of("deepfm", 1)
    dense = Dense.initial(spec)
    assert dense is not None
    gradients = dense_gradients(spec, 12)
    for gradient in gradients[:5]:
        dense.update(gradient)
    kept = dense.arrays()
    copies = [array.copy() for array in kept]
    restored = Dense.of(spec, kept)
    np.testing.assert_array_equal(restored.values, dense.values)
    for gradient in gradients[5:]:
        dense.update(gradient)
        restored.update(gradient)
        for one, other in zip(dense.arrays(), restored.arrays(), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    # what was given out is a copy
    for one, other in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(one, other)
    # without the optimizer's state it would be elsewhere
    forgetful = Dense(spec, copies[0])
    for gradient in gradients[5:]:
        forgetful.update(gradient)
    assert np.abs(forgetful.values - dense.values).max() > 1e-3
