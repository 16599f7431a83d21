"""The table against a dict, in random sequences; how it grows; and what it costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from trainer.spec import AdaGrad, Adam, Ftrl, Segment, TableSpec
from trainer.table import table as table_module
from trainer.table.optimizers import Floats, kernel
from trainer.table.table import MAX_LOAD, Keys, Rows, Table

SEED = 5
#: What grows by doubling below, and by a quarter from there on.
SMALL = 1 << 16
WIDE = TableSpec(
    "t0",
    (
        Segment("linear", 2, Ftrl(alpha=0.1, l1=0.2, l2=0.1)),
        Segment("embedding", 3, AdaGrad(), scale=0.1),
    ),
    expire_after_s=100,
)
ADMITTING = TableSpec("t1", (Segment("linear", 1, Adam(), scale=0.5),), 3, expire_after_s=40)
ONE_WEIGHT = TableSpec("t2", (Segment("linear", 1, Ftrl()),))


def same(one: Rows, other: Rows) -> None:
    """Equal to the bit, whatever the order."""
    one, other = one.sorted(), other.sorted()
    np.testing.assert_array_equal(one.keys, other.keys)
    np.testing.assert_array_equal(one.touched, other.touched)
    np.testing.assert_array_equal(one.dirty, other.dirty)
    for a, b in zip(one.states, other.states, strict=True):
        np.testing.assert_array_equal(a, b)


@dataclass
class Row:
    states: list[Floats]
    touched: int
    dirty: int = 1


@dataclass
class Model:
    """A table as a dict of rows. Only one step of an optimizer is not of its own."""

    spec: TableSpec
    rows: dict[int, Row] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    seen: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.first = np.cumsum([0, *(s.width for s in self.spec.segments)]).tolist()
        self.kernels = [
            kernel(s, c, SEED) for s, c in zip(self.spec.segments, self.first, strict=False)
        ]

    def started(self, key: int) -> list[Floats]:
        states = [np.zeros((1, k.floats), np.float32) for k in self.kernels]
        for k, state in zip(self.kernels, states, strict=True):
            k.start(state, np.zeros(1, np.int64), np.array([key], np.uint64))
        return states

    def values(self, states: list[Floats]) -> Floats:
        out = np.zeros((1, self.spec.width), np.float32)
        for k, state, first in zip(self.kernels, states, self.first, strict=False):
            k.read(state, np.zeros(1, np.int64), out, first)
        values: Floats = out[0]
        return values

    def pull(self, keys: Keys) -> tuple[Floats, list[bool]]:
        out = np.zeros((len(keys), self.spec.width), np.float32)
        for n, key in enumerate(keys.tolist()):
            if key in self.rows:
                out[n] = self.values(self.rows[key].states)
            elif self.spec.admit_after == 1:
                out[n] = self.values(self.started(key))
        return out, [key in self.rows for key in keys.tolist()]

    def push(self, keys: Keys, gradients: Floats, counts: Any, now: int) -> None:
        for n, key in enumerate(keys.tolist()):
            known = key in self.rows
            if not known:
                self.seen[key] += int(counts[n])
                if self.seen[key] < self.spec.admit_after:
                    continue
                self.rows[key] = Row(self.started(key), now)
            row = self.rows[key]
            row.touched, row.dirty = now, 1
            if known or self.spec.admit_after == 1:
                for k, state, first in zip(self.kernels, row.states, self.first, strict=False):
                    k.update(state, np.zeros(1, np.int64), gradients[n : n + 1], first)

    def expire(self, now: int) -> int:
        limit = self.spec.expire_after_s
        assert limit is not None
        gone = [key for key, row in self.rows.items() if row.touched < now - limit]
        for key in gone:
            del self.rows[key]
        self.removed.update(gone)
        return len(gone)

    def changed(self, everything: bool) -> tuple[dict[int, list[float]], set[int]]:
        values = {
            key: self.values(row.states).tolist()
            for key, row in self.rows.items()
            if everything or row.dirty
        }
        removed = set() if everything else self.removed - set(self.rows)
        self.removed = set()
        for row in self.rows.values():
            row.dirty = 0
        return values, removed

    def all_rows(self) -> Rows:
        keys = sorted(self.rows)
        rows = [self.rows[key] for key in keys]
        states = [
            np.concatenate([np.zeros((0, k.floats), np.float32), *(row.states[n] for row in rows)])
            for n, k in enumerate(self.kernels)
        ]
        return Rows(
            np.array(keys, np.uint64),
            np.array([row.touched for row in rows], np.uint32),
            np.array([row.dirty for row in rows], np.uint8),
            states,
        )


def awkward_keys(random: np.random.Generator, count: int) -> Keys:
    """Keys of which many want the same place: by their low half, and at the table's very end."""
    high = random.integers(0, 1 << 32, count, np.uint64) << np.uint64(32)
    low = random.integers(0, 1 << 32, count, np.uint64)
    low[::3] = random.choice(np.array([0, 1, 77, 1 << 31], np.uint64), len(low[::3]))
    low[1::3] = np.uint64(0xFFFFFFFF) - random.integers(0, 3, len(low[1::3]), np.uint64)
    keys = np.unique(np.maximum(high | low, np.uint64(1)))
    return random.permutation(keys)


def some(random: np.random.Generator, keys: Keys, most: int) -> Keys:
    return random.choice(keys, int(random.integers(0, min(most, len(keys)) + 1)), replace=False)


# -- against the dict ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spec", [WIDE, ADMITTING], ids=["plain", "admitting"])
@pytest.mark.parametrize(("small", "capacity"), [(64, 5), (1 << 16, 1024)])
def test_a_table_is_a_dict_of_rows(
    spec: TableSpec, small: int, capacity: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "_SMALL", small)
    random = np.random.default_rng([seed, small])
    pool = awkward_keys(random, 900)
    table, model, now = Table(spec, SEED, capacity=capacity), Model(spec), 1000
    away: tuple[Rows, dict[int, Row]] | None = None
    capacities, gone = {capacity}, 0
    for turn in range(70):
        now += int(random.integers(0, 12))
        most = 12 if turn < 25 else 250
        match random.choice(
            ["push", "pull and push", "pull", "expire", "move", "rebuild", "export"],
            p=[0.3, 0.25, 0.1, 0.1, 0.1, 0.05, 0.1],
        ):
            case "push":
                push(table, model, some(random, pool, most), random, now, away)
            case "pull and push":
                keys = some(random, pool, most)
                pulled_like(table, model, keys)
                push(table, model, keys, random, now, away)
            case "pull":
                pulled_like(table, model, some(random, pool, most))
            case "expire":
                found = table.expire(now)
                assert found == model.expire(now)
                gone += found
            case "move" if away is None:
                moved = random.random(table.rows) < 0.4
                keys = table.keys()[moved]
                rows = table.take_out(moved)
                np.testing.assert_array_equal(rows.keys, keys)
                away = rows, {key: model.rows.pop(key) for key in keys.tolist()}
            case "move":
                assert away is not None
                table.absorb(away[0])
                model.rows.update(away[1])
                away = None
            case "rebuild":
                table._rebuild(int(table.rows / 0.7) + 2)
            case "export":
                everything = bool(random.random() < 0.3)
                keys, values, removed = table.changed(everything=everything)
                expected, went = model.changed(everything)
                assert dict(zip(keys.tolist(), values.tolist(), strict=True)) == expected
                assert set(removed.tolist()) == went
                assert len(set(removed.tolist())) == len(removed)
        assert table.rows == len(model.rows) <= MAX_LOAD * table.capacity
        same(table.all_rows(), model.all_rows())
        capacities.add(table.capacity)
    # else the sequence showed nothing
    assert gone > 0
    assert len(capacities) > 3 or capacity == 1024


def push(
    table: Table,
    model: Model,
    keys: Keys,
    random: np.random.Generator,
    now: int,
    away: tuple[Rows, dict[int, Row]] | None,
) -> None:
    if away is not None:
        # what is on another shard is not pushed to here (and this is not the array that was pulled)
        keys = keys[~np.isin(keys, away[0].keys)]
    gradients = random.normal(0, 1, (len(keys), model.spec.width)).astype(np.float32)
    counts = random.integers(1, 3, len(keys), np.uint32)
    table.push(keys, gradients, counts, now)
    model.push(keys, gradients, counts, now)


def pulled_like(table: Table, model: Model, keys: Keys) -> None:
    values, known = table.pull(keys)
    expected, expected_known = model.pull(keys)
    np.testing.assert_array_equal(values, expected)
    assert known.astype(bool).tolist() == expected_known


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 2e38])
@pytest.mark.parametrize("column", range(10))
def test_no_change_makes_a_state_that_is_not_finite(column: int, wrong: float) -> None:
    """Of the row with the wrong number, the segment that has it stays; all else is changed."""
    table = Table(WIDE, SEED)
    keys = np.array([5, 6], np.uint64)
    large = np.full((2, WIDE.floats), 2e38, np.float32)
    table.change(keys, large, None, 1)
    before, _ = table.pull_states(keys)
    changes = np.full((2, WIDE.floats), -1e38, np.float32)
    changes[0, column] = wrong
    table.change(keys, changes, None, 1)
    after, _ = table.pull_states(keys)
    assert np.isfinite(after).all()
    stays = slice(0, 4) if column < 4 else slice(4, 10)
    expected = before - np.float32(1e38)
    expected[0, stays] = before[0, stays]
    np.testing.assert_array_equal(after, expected)


# -- keys that collide -----------------------------------------------------------------------------


def test_keys_that_all_want_the_last_place_go_round_the_end() -> None:
    keys = (np.arange(1, 3001, dtype=np.uint64) << np.uint64(32)) | np.uint64(0xFFFFFFFF)
    table = Table(ONE_WEIGHT, SEED, capacity=3)
    for start in range(0, 3000, 37):
        part = keys[start : start + 37]
        table.push(part, np.full((len(part), 1), 2.0, np.float32), None, 1)
        table.push(keys[:1], np.zeros((1, 1), np.float32), None, 1)
    assert table.rows == 3000
    assert set(table.keys().tolist()) == set(keys.tolist())
    values, known = table.pull(keys)
    assert known.all()
    assert (values != 0).all()
    # of the same low half, and not there
    absent = keys | np.uint64(1 << 63)
    assert not table.pull(absent)[1].any()


def test_rows_that_are_kept_are_found_when_those_before_them_in_the_probe_are_gone() -> None:
    keys = np.arange(1, 401, dtype=np.uint64) << np.uint64(32)
    spec = TableSpec("t", ONE_WEIGHT.segments, expire_after_s=10)
    table = Table(spec, SEED)
    table.push(keys[:200], np.ones((200, 1), np.float32), None, 100)
    table.push(keys[200:], np.ones((200, 1), np.float32), None, 150)
    assert table.expire(160) == 200
    assert table.pull(keys)[1].tolist() == [0] * 200 + [1] * 200


# -- size ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [3000, 30_011])
def test_load_and_bytes_as_a_table_grows(step: int) -> None:
    random = np.random.default_rng(step)
    keys = np.unique(random.integers(1, 1 << 64, 420_000, np.uint64))
    random.shuffle(keys)
    table = Table(ONE_WEIGHT, SEED)
    one = np.ones((step, 1), np.float32)
    seen = []
    for start in range(0, len(keys) - step, step):
        before = table.capacity
        table.push(keys[start : start + step], one, None, 1)
        load = table.rows / table.capacity
        assert load <= MAX_LOAD
        if table.capacity != before >= SMALL:
            # a quarter more at a time, and never more than is needed
            seen.append(table.capacity)
            assert load >= 0.6
        if table.rows > 100_000:
            assert load >= 0.6
            assert 26 <= table.nbytes / table.rows <= 36
    assert len(seen) > 4
    # and as few when most are gone
    table.take_out(np.arange(table.rows) % 3 > 0)
    assert table.rows > 100_000
    assert 26 <= table.nbytes / table.rows <= 36
    assert table.rows / table.capacity >= 0.6


def test_small_tables_double_and_large_ones_grow_by_a_quarter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(table_module, "_SMALL", 400)
    table = Table(ONE_WEIGHT, SEED, capacity=100)
    grown = [100]
    for key in range(1, 1001):
        table.push(np.array([key], np.uint64), np.ones((1, 1), np.float32), None, 1)
        if table.capacity != grown[-1]:
            # not before it has to
            assert key == int(MAX_LOAD * grown[-1]) + 1
            grown.append(table.capacity)
    assert grown == [100, 200, 400, 500, 625, 781, 976, 1220, 1525]


# -- pulls -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [WIDE, ADMITTING], ids=["plain", "admitting"])
def test_a_pull_changes_nothing(spec: TableSpec) -> None:
    random = np.random.default_rng(1)
    keys = awkward_keys(random, 600)
    table = Table(spec, SEED)
    gradients = random.normal(0, 1, (300, spec.width)).astype(np.float32)
    table.push(keys[:300], gradients, np.full(300, 5, np.uint32), 10)
    table.changed(everything=True)
    table.push(keys[:50], gradients[:50], np.full(50, 5, np.uint32), 20)

    def everything() -> list[bytes]:
        rows = table.all_rows()
        arrays: list[Any] = [
            *(table._places, table._touched, table._dirty, *table._states),
            *(rows.keys, rows.touched, rows.dirty, *rows.states, table.removed),
        ]
        if table.sketch is not None:
            arrays.append(table.sketch)
        return [array.tobytes() for array in arrays]

    before = everything()
    for part in (keys, keys[100:200], keys[:0], keys[300:]):
        first, known = table.pull(part)
        again, known_again = table.pull(part)
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(known, known_again)
        # what was given out is the caller's
        first += 1
    assert everything() == before


def others_grow(table: Table, _: Keys) -> None:
    keys = np.arange(1 << 40, (1 << 40) + 5000, dtype=np.uint64)
    table.push(keys, np.ones((5000, 5), np.float32), None, 1000)


def others_fit(table: Table, _: Keys) -> None:
    keys = np.arange(1 << 40, (1 << 40) + 5, dtype=np.uint64)
    table.push(keys, np.ones((5, 5), np.float32), None, 1000)


def all_expire(table: Table, _: Keys) -> None:
    assert table.expire(100_000)


def all_leave(table: Table, _: Keys) -> None:
    assert len(table.take_out(np.ones(table.rows, bool)))


def others_come(table: Table, _: Keys) -> None:
    other = Table(WIDE, SEED)
    others_grow(other, _)
    table.absorb(other.all_rows())


def some_come(table: Table, keys: Keys) -> None:
    """Of the very keys that were pulled."""
    other = Table(WIDE, SEED)
    other.push(keys[::-1][:20].copy(), np.ones((20, 5), np.float32), None, 900)
    table.absorb(other.all_rows())


def pulled_again(table: Table, keys: Keys) -> None:
    table.pull(keys[::-1].copy())


def pushed_before(table: Table, keys: Keys) -> None:
    table.push(keys, np.ones((len(keys), 5), np.float32), None, 1000)


@pytest.mark.parametrize(
    "between",
    [
        others_grow,
        others_fit,
        all_expire,
        all_leave,
        others_come,
        some_come,
        pulled_again,
        pushed_before,
    ],
)
def test_what_a_pull_found_is_forgotten_when_rows_move(between: Any) -> None:
    random = np.random.default_rng(3)
    keys = awkward_keys(random, 300)
    gradients = random.normal(0, 1, (len(keys), 5)).astype(np.float32)
    tables = Table(WIDE, SEED), Table(WIDE, SEED)
    for table in tables:
        # the last ones are new, when they are pushed at the end
        table.push(keys[:200].copy(), gradients[:200], None, 500)
    tables[0].pull(keys)
    for table in tables:
        between(table, keys)
        table.push(keys, gradients, None, 1000)
    same(tables[0].all_rows(), tables[1].all_rows())
    assert tables[0].pull(keys)[1].all()
    # none is there twice
    assert len(np.unique(tables[0].keys())) == tables[0].rows


def test_a_push_after_a_pull_that_makes_it_grow_itself() -> None:
    """The places that were found are of the smaller table."""
    keys = np.arange(1, 2001, dtype=np.uint64)
    one = np.ones((2000, 5), np.float32)
    tables = Table(WIDE, SEED), Table(WIDE, SEED)
    for n, table in enumerate(tables):
        table.push(keys[:600].copy(), one[:600], None, 1)
        if n == 0:
            table.pull(keys)
        before = table.capacity
        table.push(keys, one, None, 2)
        assert table.capacity > before
    same(tables[0].all_rows(), tables[1].all_rows())


# -- leaving and coming ----------------------------------------------------------------------------


def test_expiry_is_by_the_last_touch_and_its_limit_is_inclusive() -> None:
    keys = np.array([1, 2, 3], np.uint64)
    table = Table(TableSpec("t", ONE_WEIGHT.segments, expire_after_s=100), SEED)
    for key, now in ((1, 50), (2, 51), (3, 10), (3, 52)):
        table.push(np.array([key], np.uint64), np.ones((1, 1), np.float32), None, now)
    assert table.expire(99) == 0
    assert table.expire(150) == 0
    assert table.expire(151) == 1
    assert table.pull(keys)[1].tolist() == [0, 1, 1]
    assert table.removed.tolist() == [1]
    assert table.expire(1000) == 2
    assert table.rows == 0
    assert Table(ONE_WEIGHT, SEED).expire(10**9) == 0


def test_an_older_batch_does_not_make_a_row_older() -> None:
    """Corrections carry the time of their impression, and workers are not in step."""
    key, one = np.array([7], np.uint64), np.ones((1, 1), np.float32)
    table = Table(TableSpec("t", ONE_WEIGHT.segments, expire_after_s=100), SEED)
    table.push(key, one, None, 1000)
    table.push(key, one, None, 400)
    assert table.expire(1050) == 0


def test_what_comes_in_must_not_be_there() -> None:
    one, other = Table(WIDE, SEED), Table(WIDE, SEED)
    keys = np.arange(1, 50, dtype=np.uint64)
    gradients = np.ones((49, 5), np.float32)
    one.push(keys, gradients, None, 1)
    other.push(keys[40:], gradients[40:], None, 1)
    before = one.all_rows()
    with pytest.raises(ValueError, match="here already"):
        one.absorb(other.all_rows())
    same(one.all_rows(), before)
    assert one.rows == 49


def test_tables_that_were_divided_are_as_one_that_never_was() -> None:
    random = np.random.default_rng(8)
    keys = awkward_keys(random, 3000)
    whole, left, right = (Table(WIDE, SEED) for _ in range(3))
    gradients = random.normal(0, 1, (len(keys), 5)).astype(np.float32)
    for table in (whole, left):
        table.push(keys, gradients, None, 3)
        table.changed(everything=True)
        table.push(keys[:100], gradients[:100], None, 4)
    goes = left.keys() >> np.uint64(63) == 1
    right.absorb(left.take_out(goes))
    assert left.rows + right.rows == whole.rows
    assert min(left.rows, right.rows) > 1000
    here = keys >> np.uint64(63) == 0
    whole.push(keys, gradients, None, 5)
    left.push(keys[here], gradients[here], None, 5)
    right.push(keys[~here], gradients[~here], None, 5)
    left.absorb(right.take_out(np.ones(right.rows, bool)))
    assert right.rows == 0
    same(left.all_rows(), whole.all_rows())


# -- exports ---------------------------------------------------------------------------------------


def test_a_base_and_its_deltas_are_the_table() -> None:
    random = np.random.default_rng(4)
    pool = awkward_keys(random, 2000)
    table = Table(WIDE, SEED)
    served: dict[int, list[float]] = {}
    sizes = []
    for number in range(30):
        for _ in range(3):
            keys = some(random, pool, 400)
            gradients = random.normal(0, 1, (len(keys), 5)).astype(np.float32)
            table.push(keys, gradients, None, 100 + 13 * number)
        table.expire(100 + 13 * number)
        base = number in (0, 17)
        keys, values, removed = table.changed(everything=base)
        sizes.append((len(keys), len(removed)))
        if base:
            served = {}
        for key in removed.tolist():
            # a reader was told of it
            del served[key]
        served.update(zip(keys.tolist(), values.tolist(), strict=True))
        there = table.keys()
        expected = table.pull(there)[0].tolist()
        assert served == dict(zip(there.tolist(), expected, strict=True))
    # deltas are smaller than the table, and something was removed
    assert sum(removed for _, removed in sizes) > 100
    assert min(changed for changed, _ in sizes[18:]) < table.rows
    assert table.changed(everything=False)[0].tolist() == []


def test_a_key_that_returned_is_not_exported_as_removed() -> None:
    table = Table(TableSpec("t", ONE_WEIGHT.segments, expire_after_s=10), SEED)
    keys = np.array([5, 6], np.uint64)
    one = np.ones((2, 1), np.float32)
    table.push(keys, one, None, 100)
    table.changed(everything=True)
    assert table.expire(200) == 2
    table.push(keys[:1], one[:1], None, 200)
    changed, _, removed = table.changed(everything=False)
    assert changed.tolist() == [5]
    assert removed.tolist() == [6]
    # and it can go again
    assert table.expire(300) == 1
    assert table.changed(everything=False)[2].tolist() == [5]


def test_a_key_that_went_twice_is_exported_once() -> None:
    table = Table(TableSpec("t", ONE_WEIGHT.segments, expire_after_s=10), SEED)
    key, one = np.array([5], np.uint64), np.ones((1, 1), np.float32)
    for now in (100, 200):
        table.push(key, one, None, now)
        assert table.expire(now + 50) == 1
    assert table.changed(everything=False)[2].tolist() == [5]
    assert table.changed(everything=False)[2].tolist() == []


def test_a_base_has_nothing_removed_and_deltas_begin_anew_after_it() -> None:
    table = Table(TableSpec("t", ONE_WEIGHT.segments, expire_after_s=10), SEED)
    keys, one = np.array([5, 6], np.uint64), np.ones((2, 1), np.float32)
    table.push(keys, one, None, 100)
    table.push(keys[:1], one[:1], None, 150)
    assert table.expire(150) == 1
    kept, _, removed = table.changed(everything=True)
    assert (kept.tolist(), removed.tolist()) == ([5], [])
    kept, values, removed = table.changed(everything=False)
    assert (kept.tolist(), values.shape, removed.tolist()) == ([], (0, 1), [])
