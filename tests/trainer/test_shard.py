"""A shard: each push once, steps as a whole, and a copy that goes on as the original does."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer import bits
from trainer.server.ring import ARCS, arcs_of
from trainer.server.shard import Marks, OutOfStepError, Push, Shard, TablePush
from trainer.server.shard_file import snapshot_from_bytes, snapshot_to_bytes
from trainer.spec import AdaGrad, Adam, Ftrl, ModelSpec, Segment, Slot, TableSpec
from trainer.table import admission
from trainer.table.table import Rows

EMBEDDING = Segment("embedding", 3, AdaGrad(), scale=0.1)
#: A table of each optimizer; the last admits and expires. `fm` with two heads has dense parameters.
SPEC = ModelSpec(
    "fm",
    ("click", "purchase"),
    (Slot("a", "a", "category"), Slot("b", "b", "category", 1), Slot("c", "c", "category", 2)),
    (
        TableSpec("ids", (Segment("linear", 2, Ftrl(l1=0.1, l2=0.01)), EMBEDDING)),
        TableSpec("wide", (Segment("linear", 2, AdaGrad()),)),
        TableSpec("rare", (Segment("linear", 2, Adam(0.1)),), admit_after=3, expire_after_s=50),
    ),
    embedding=3,
    seed=7,
)
#: What a key's row holds beside the weight, under FTRL: the sum of the squares of its gradients.
COUNTED = ModelSpec(
    "lr",
    ("click",),
    (Slot("a", "a", "category"),),
    (TableSpec("ids", (Segment("linear", 1, Ftrl()),)),),
)
DENSE_WIDTH = 6


@pytest.fixture(autouse=True)
def _small_sketches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "empty", lambda: np.zeros((admission.DEPTH, 256), np.uint16))


def new(contributions: int | None = None, *, dense: bool = False, spec: ModelSpec = SPEC) -> Shard:
    return Shard(spec, contributions=contributions, has_dense=dense)


def keys_of(*numbers: int) -> Any:
    """Keys over the whole ring; never 0."""
    return np.array(numbers, np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def pushed(
    rng: np.random.Generator, worker: int, sequence: int, step: int = 0, *, dense: bool = False
) -> Push:
    tables = []
    for spec in SPEC.tables:
        n = int(rng.integers(0, 25))
        keys = keys_of(*(rng.choice(30, n, replace=False) + 1))
        gradients = rng.normal(size=(n, spec.width)).astype(np.float32)
        counts = rng.integers(1, 3, n).astype(np.uint32) if spec.admit_after > 1 else None
        tables.append(TablePush(keys, gradients, counts))
    vector = rng.normal(size=DENSE_WIDTH).astype(np.float32) if dense else None
    return Push(worker, sequence, step, 10 * step + worker, tables, vector)


def counted(worker: int, sequence: int, *keys: int) -> Push:
    """A gradient of 1 for each key, under COUNTED."""
    table = TablePush(keys_of(*keys), np.ones((len(keys), 1), np.float32), None)
    return Push(worker, sequence, 0, 0, [table], None)


def times_applied(shard: Shard, *keys: int) -> list[int]:
    rows = shard.tables[0].all_rows()
    found = dict(zip(rows.keys.tolist(), rows.states[0][:, 1].tolist(), strict=True))
    return [int(found.get(key, 0)) for key in keys_of(*keys).tolist()]


def content(shard: Shard) -> Any:
    return bits.of_snapshot(shard.snapshot())


def values_of(shard: Shard, step: int) -> list[bytes]:
    """Of all keys there are, as of the beginning of a step."""
    keys = keys_of(*range(1, 31))
    pulled = shard.pull(step, [keys for _ in SPEC.tables], dense=True)
    arrays = [a for pair in pulled.tables for a in pair]
    return [a.tobytes() for a in (arrays if pulled.dense is None else [*arrays, pulled.dense])]


# -- each push once --------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 12), max_size=40))
def test_marks_take_each_number_once(sequences: list[int]) -> None:
    marks, taken = Marks(), set[int]()
    for sequence in sequences:
        assert marks.take(sequence) == (sequence not in taken)
        taken.add(sequence)
        assert marks.below == next(n for n in itertools.count() if n not in taken)
        assert marks.above == {n for n in taken if n > marks.below}, "no more is kept than needed"


@pytest.mark.parametrize("seed", range(50))
def test_any_order_with_repeats_counts_each_push_once(seed: int) -> None:
    rng = random.Random(seed)
    # a key of each push's own, and one that all have
    pushes = [counted(w, n, 100 + 10 * w + n, 1) for w in range(3) for n in range(4)]
    deliveries = [push for push in pushes for _ in range(rng.randint(1, 3))]
    rng.shuffle(deliveries)
    shard, came = new(spec=COUNTED), set[tuple[int, int]]()
    for push in deliveries:
        mark = push.worker, push.sequence
        assert shard.push(push) == (mark not in came)
        came.add(mark)
    own = [100 + 10 * w + n for w in range(3) for n in range(4)]
    assert times_applied(shard, 1, *own) == [12] + [1] * 12
    assert shard.snapshot().marks == {w: (4, []) for w in range(3)}


def test_what_comes_twice_is_not_counted_for_admission_either() -> None:
    shard, key = new(), keys_of(5)
    nothing = [TablePush(key[:0], np.zeros((0, t.width), np.float32), None) for t in SPEC.tables]
    rare = TablePush(key, np.ones((1, 2), np.float32), np.array([2], np.uint32))
    for _ in range(3):
        shard.push(Push(0, 0, 0, 0, [*nothing[:2], rare], None))
    assert shard.tables[2].rows == 0, "seen in two samples, of the three that are needed"
    shard.push(Push(0, 1, 0, 0, [*nothing[:2], rare], None))
    assert shard.tables[2].rows == 1


# -- steps -----------------------------------------------------------------------------------------

Ends = Callable[[Shard], Any]


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param(lambda shard: shard.pull(1, [keys_of()] * 3), id="a pull"),
        pytest.param(
            lambda shard: shard.push(pushed(np.random.default_rng(9), 0, 1, 1)), id="a push"
        ),
        pytest.param(lambda shard: shard.settle(1), id="a command"),
    ],
)
def test_a_step_is_applied_when_something_of_the_next_comes(ends: Ends) -> None:
    rng = np.random.default_rng(3)
    shard = new(2, dense=True)
    before = values_of(shard, 0)
    for worker in range(2):
        shard.push(pushed(rng, worker, 0, dense=True))
        assert values_of(shard, 0) == before, "as of the step's beginning"
        assert [t.rows for t in shard.tables] == [0, 0, 0]
    ends(shard)
    assert shard.step == 1
    assert all(t.rows for t in shard.tables[:2])
    assert values_of(shard, 1) != before


def test_settling_a_step_that_is_on_changes_nothing() -> None:
    shard = new(2)
    shard.push(pushed(np.random.default_rng(3), 0, 0))
    before = content(shard)
    shard.settle(0)
    assert content(shard) == before


def steps(workers: int, count: int) -> list[list[Push]]:
    rng = np.random.default_rng(5)
    return [[pushed(rng, w, s, s, dense=True) for w in range(workers)] for s in range(count)]


def test_contributions_in_any_order_with_repeats_give_the_same_bits() -> None:
    three = steps(3, 3)
    found = []
    for orders in itertools.product(itertools.permutations(range(3)), repeat=2):
        shard, rng = new(3), random.Random(str(orders))
        for step, order in zip(three, [*orders, (0, 1, 2)], strict=True):
            if rng.random() < 0.5:
                shard.pull(step[0].step, [keys_of()] * 3)
            for n, worker in enumerate(order):
                shard.push(step[worker])
                for late in (step[order[rng.randint(0, n)]], three[0][worker]):
                    assert not shard.push(late)
        shard.settle(3)
        found.append(content(shard))
    assert len(found) == 36
    assert all(one == found[0] for one in found)


def test_the_order_of_an_addition_would_show() -> None:
    """Else the test before this one could not fail."""
    first = steps(3, 1)[0]
    in_order, other = new(3), new(3)
    for worker, push in enumerate(first):
        in_order.push(push)
        other.push(Push((worker + 1) % 3, 0, 0, push.now, push.tables, push.dense))
    for shard in (in_order, other):
        shard.settle(1)
    assert content(in_order)["rows"] != content(other)["rows"]


def parted(whole: Push, workers: int) -> list[Push]:
    """What `workers` of them contribute to it: some of the keys, or a part of a gradient."""
    rng = np.random.default_rng(8)
    out = []
    shares = rng.dirichlet(np.ones(workers)).astype(np.float32)
    for worker, share in enumerate(shares):
        tables = []
        for t in whole.tables:
            # even keys are in all parts, odd ones in one
            everywhere = t.keys % np.uint64(2) == 0
            here = everywhere | (t.keys % np.uint64(workers) == worker)
            scale = np.where(everywhere, share, np.float32(1))[here, None]
            counts = None
            if t.counts is not None:
                counts = t.counts[here] if worker == 0 else np.where(everywhere, 0, t.counts)[here]
            gradients = t.gradients[here] * scale
            tables.append(TablePush(t.keys[here], gradients, counts))
        dense = None if whole.dense is None else whole.dense * share
        out.append(Push(worker, whole.sequence, whole.step, whole.now, tables, dense))
    return out


@pytest.mark.parametrize("workers", [2, 4])
def test_the_parts_of_a_step_are_as_good_as_the_whole(workers: int) -> None:
    whole, parts = new(1, dense=True), new(workers, dense=True)
    rng = np.random.default_rng(6)
    for step in range(4):
        push = pushed(rng, 0, step, step, dense=True)
        # one part has all counts, so that admission is the same
        push.tables[2].counts = np.full(len(push.tables[2].keys), 3, np.uint32)
        whole.push(push)
        for part in parted(push, workers):
            for table in part.tables[2:]:
                table.counts = np.full(len(table.keys), 3, np.uint32)
            parts.push(part)
    for shard in (whole, parts):
        shard.settle(4)
    one, other = whole.snapshot(), parts.snapshot()
    for a, b in zip(one.tables, other.tables, strict=True):
        a, b = a.sorted(), b.sorted()
        assert (a.keys == b.keys).all()
        assert (a.touched == b.touched).all()
        for x, y in zip(a.states, b.states, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one.dense[0], other.dense[0], rtol=1e-4, atol=1e-5)


def test_counts_of_the_parts_are_added() -> None:
    shard, key = new(2), keys_of(5)
    nothing = [TablePush(key[:0], np.zeros((0, t.width), np.float32), None) for t in SPEC.tables]
    for worker, count in enumerate((1, 2)):
        rare = TablePush(key, np.ones((1, 2), np.float32), np.array([count], np.uint32))
        shard.push(Push(worker, 0, 0, 30 + worker, [*nothing[:2], rare], None))
    shard.settle(1)
    assert shard.tables[2].rows == 1, "seen in three samples"
    assert shard.tables[2].all_rows().touched.tolist() == [31], "the newest of all parts"


def half_done() -> Shard:
    """Step 1 is on, and of its two contributions one is there."""
    rng = np.random.default_rng(4)
    shard = new(2)
    for worker in range(2):
        shard.push(pushed(rng, worker, 0))
    shard.push(pushed(rng, 0, 1, 1))
    return shard


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda s: s.pull(0, [keys_of()] * 3), id="a pull for a step that is over"),
        pytest.param(lambda s: s.pull(2, [keys_of()] * 3), id="a pull before the step is complete"),
        pytest.param(lambda s: s.pull(3, [keys_of()] * 3), id="a pull for the step after the next"),
        pytest.param(
            lambda s: s.push(pushed(np.random.default_rng(1), 0, 2, 2)),
            id="a push before the step is complete",
        ),
        pytest.param(
            lambda s: s.push(pushed(np.random.default_rng(1), 1, 1, 0)),
            id="a new push for a step that is over",
        ),
        pytest.param(lambda s: s.settle(2), id="a command before the step is complete"),
    ],
)
def test_what_is_out_of_step_is_an_error_and_changes_nothing(wrong: Ends) -> None:
    shard = half_done()
    before = content(shard)
    for _ in range(2):
        # the second time too: a push that was refused is not one that was taken
        with pytest.raises(OutOfStepError):
            wrong(shard)
        assert content(shard) == before


def test_without_steps_nothing_is_out_of_step() -> None:
    shard = new()
    rng = np.random.default_rng(4)
    assert shard.push(pushed(rng, 0, 0, 5))
    assert shard.push(pushed(rng, 0, 1, 2))
    shard.pull(0, [keys_of()] * 3)
    shard.settle(9)
    assert shard.step == 0


# -- outside of a shard ----------------------------------------------------------------------------


def history(contributions: int | None) -> Iterator[Push]:
    rng = np.random.default_rng(2)
    workers = contributions or 2
    for step in itertools.count():
        for worker in range(workers):
            yield pushed(rng, worker, step, step, dense=True)


def trained(contributions: int | None, pushes: int, *, dense: bool) -> tuple[Shard, Iterator[Push]]:
    shard, todo = new(contributions, dense=dense), history(contributions)
    for n in range(pushes):
        shard.push(next(todo))
        if n == pushes // 2:
            assert shard.expire(85) > 0
    if contributions is None:
        # one that comes before the one ahead of it
        early = Push(3, 2, 0, 0, next(todo).tables, None)
        assert shard.push(early)
    return shard, todo


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    ("contributions", "pushes"),
    [
        pytest.param(None, 31, id="each push at once"),
        pytest.param(3, 32, id="in the middle of a step"),
        pytest.param(3, 33, id="a step that is complete and not applied"),
    ],
)
def test_a_copy_goes_on_as_the_original(
    contributions: int | None, pushes: int, dense: bool
) -> None:
    shard, todo = trained(contributions, pushes, dense=dense)
    copy = new(contributions, dense=dense)
    copy.load(snapshot_from_bytes(snapshot_to_bytes(shard.snapshot())))
    assert content(copy) == content(shard)
    there = content(shard)
    assert any(there["removed"])
    assert any(map(any, filter(None, there["sketches"])))
    assert bool(there["dense"]) == dense
    assert len(there["pending"]) == (0 if contributions is None else (pushes - 1) % 3 + 1)
    for push in itertools.islice(todo, 12):
        assert shard.push(push) == copy.push(push)
    step = shard.step
    for one in (shard, copy):
        one.expire(200)
    assert values_of(shard, step) == values_of(copy, step)
    assert content(copy) == content(shard)
    assert content(copy) != there


def test_parts_are_a_copy() -> None:
    shard, todo = trained(None, 10, dense=True)
    kept = shard.snapshot()
    copy = new(dense=True)
    copy.load(snapshot_from_bytes(snapshot_to_bytes(kept)))
    as_it_was = content(copy)
    for push in itertools.islice(todo, 6):
        shard.push(push)
    shard.expire(500)
    again = new(dense=True)
    again.load(kept)
    assert content(again) == as_it_was
    for push in itertools.islice(todo, 3):
        again.push(push)
    another = new(dense=True)
    another.load(kept)
    assert content(another) == as_it_was, "nor does a shard that was made of them change them"


def test_a_shard_takes_no_row_that_it_has() -> None:
    shard, _ = trained(None, 10, dense=False)
    with pytest.raises(ValueError, match="here already"):
        shard.load(shard.snapshot())


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_what_is_of_some_arcs_leaves_whole(share: float) -> None:
    shard, _ = trained(None, 20, dense=True)
    arcs = np.random.default_rng(0).random(ARCS) < share
    before = shard.snapshot()
    assert any(len(keys) for keys in before.removed)
    taken, left = shard.take_out(arcs), shard.snapshot()
    for t, was in enumerate(before.tables):
        moves = arcs[arcs_of(was.keys)]
        assert same(taken.tables[t].sorted(), was.take(moves).sorted())
        assert same(left.tables[t].sorted(), was.take(~moves).sorted())
        gone = before.removed[t]
        assert taken.removed[t].tolist() == gone[arcs[arcs_of(gone)]].tolist()
        assert left.removed[t].tolist() == gone[~arcs[arcs_of(gone)]].tolist()
    assert (taken.marks, taken.step) == (before.marks, before.step)
    assert (taken.dense, len(left.dense)) == ([], len(before.dense)), "which stays"


@pytest.mark.parametrize("contributions", [None, 2])
def test_what_moves_and_comes_back_was_never_away(contributions: int | None) -> None:
    shard, todo = trained(contributions, 20, dense=False)
    unmoved, _ = trained(contributions, 20, dense=False)
    for one in (shard, unmoved):
        # between batches
        one.settle(10)
    other = new(contributions)
    arcs = np.random.default_rng(0).random(ARCS) < 0.5
    other.take_in(snapshot_from_bytes(snapshot_to_bytes(shard.take_out(arcs))))
    assert other.snapshot().marks == unmoved.snapshot().marks
    assert content(shard) != content(unmoved)
    shard.take_in(other.take_out(np.ones(ARCS, np.bool_)))
    assert content(shard) == content(unmoved)
    for push in itertools.islice(todo, 6):
        assert shard.push(push) == unmoved.push(push)
    assert content(shard) == content(unmoved)


def same(one: Rows, other: Rows) -> bool:
    pairs: Sequence[tuple[Any, Any]] = [
        (one.keys, other.keys),
        (one.touched, other.touched),
        (one.dirty, other.dirty),
        *zip(one.states, other.states, strict=True),
    ]
    return all(np.array_equal(a, b) for a, b in pairs)
