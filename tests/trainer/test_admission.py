"""Keys that have to be seen before they get a row."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from trainer.spec import AdaGrad, Ftrl, Segment, TableSpec
from trainer.table import admission
from trainer.table.table import Keys, Table

Stream = list[tuple[Keys, "np.ndarray[tuple[int], np.dtype[np.uint32]]"]]


def stream(seed: int, keys: Keys, batches: int, most: int = 4) -> Stream:
    """Batches of distinct keys, some of which are frequent."""
    random = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, len(keys) + 1)
    made = []
    for _ in range(batches):
        part = random.choice(keys, min(60, len(keys)), replace=False, p=weights / weights.sum())
        made.append((part, random.integers(1, most, len(part), np.uint32)))
    return made


def keys(count: int, seed: int = 0) -> Keys:
    return np.unique(np.random.default_rng(seed).integers(1, 1 << 64, count, np.uint64))


def count(counters: admission.Counters, of: Stream) -> Counter[int]:
    """Adds the stream to the sketch, and gives its truth."""
    truth: Counter[int] = Counter()
    for part, times in of:
        said = admission.count(counters, part, times)
        truth.update(dict(zip(part.tolist(), times.tolist(), strict=True)))
        assert all(n >= truth[key] for key, n in zip(part.tolist(), said.tolist(), strict=True))
    return truth


def now_known(counters: admission.Counters, of: Keys) -> list[int]:
    said: list[int] = admission.count(counters, of, np.zeros(len(of), np.uint32)).tolist()
    return said


# -- the sketch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [16, 256, 4096])
def test_it_never_counts_too_little(width: int) -> None:
    all_keys = keys(800)
    counters = admission.empty(width)
    truth = count(counters, stream(1, all_keys, 200))
    said = now_known(counters, all_keys)
    assert all(n >= truth[key] for key, n in zip(all_keys.tolist(), said, strict=True))
    if width == 16:
        # in so few counters most of them collide, so this was not for nothing
        assert sum(n > truth[k] for k, n in zip(all_keys.tolist(), said, strict=True)) > 400


def test_it_is_exact_where_nothing_collides() -> None:
    all_keys = keys(800)
    counters = admission.empty()
    assert counters.shape == (admission.DEPTH, admission.WIDTH)
    assert counters.nbytes == 8 << 20
    truth = count(counters, stream(2, all_keys, 200))
    assert now_known(counters, all_keys) == [truth[key] for key in all_keys.tolist()]


def test_the_rows_of_the_sketch_collide_for_different_keys() -> None:
    """Else a depth of 4 would be no better than one of 1."""
    width, all_keys = 64, keys(400)
    shared = np.zeros(admission.DEPTH)
    places = []
    for key in all_keys:
        counters = admission.empty(width)
        admission.count(counters, np.array([key]), np.ones(1, np.uint32))
        assert (counters.sum(axis=1) == 1).all()
        places.append(counters.argmax(axis=1))
    for place in places[1:]:
        shared += place == places[0]
    # each row has its own 1 / 64 of the others, and no key shares all
    assert (shared < 25).all()
    assert not any((place == places[0]).all() for place in places[1:])


def test_conservative_update_counts_no_more_than_the_plain_sketch() -> None:
    all_keys, width = keys(300), 64
    batches = stream(3, all_keys, 100)
    counters = admission.empty(width)
    count(counters, batches)
    plain = np.zeros((admission.DEPTH, width), np.int64)
    where = {}
    for key in all_keys:
        one = admission.empty(width)
        admission.count(one, np.array([key]), np.ones(1, np.uint32))
        where[int(key)] = one.argmax(axis=1)
    rows = np.arange(admission.DEPTH)
    for part, times in batches:
        for key, n in zip(part.tolist(), times.tolist(), strict=True):
            plain[rows, where[key]] += n
    said = now_known(counters, all_keys)
    least = [int(plain[rows, where[key]].min()) for key in all_keys.tolist()]
    assert all(a <= b for a, b in zip(said, least, strict=True))
    assert sum(said) < sum(least)


def test_counts_stop_at_the_largest() -> None:
    counters, key = admission.empty(16), np.array([9], np.uint64)
    for times, known in ((65_000, 65_000), (600, 65_535), (1, 65_535), (4_000_000_000, 65_535)):
        assert admission.count(counters, key, np.array([times], np.uint32)).tolist() == [known]


@pytest.mark.parametrize("width", [32, 1024])
def test_merged_never_counts_too_little(width: int) -> None:
    """Of shards that had different keys, as all of a table have."""
    all_keys = keys(600)
    here, there = all_keys[::2], all_keys[1::2]
    one, other = admission.empty(width), admission.empty(width)
    truth = count(one, stream(4, here, 100)) + count(other, stream(5, there, 100))
    before = one.copy(), other.copy()
    both = admission.merged(one, other)
    np.testing.assert_array_equal(one, before[0])
    np.testing.assert_array_equal(other, before[1])
    # to add them up would count more
    assert (both <= one + other).all()
    assert (both < one + other).any()
    said = now_known(both, all_keys)
    assert all(n >= truth[key] for key, n in zip(all_keys.tolist(), said, strict=True))
    # and goes on like that
    more = count(both, stream(6, all_keys, 50)) + truth
    said = now_known(both, all_keys)
    assert all(n >= more[key] for key, n in zip(all_keys.tolist(), said, strict=True))


# -- in a table ------------------------------------------------------------------------------------


def table(admit_after: int, scale: float = 0.0) -> Table:
    linear = Segment("linear", 1, Ftrl(alpha=0.5))
    embedding = Segment("embedding", 2, AdaGrad(rate=0.1), scale)
    return Table(TableSpec("t", (linear, embedding), admit_after), seed=3)


def push(to: Table, key: int, times: int, gradient: float = 1.0, now: int = 1) -> None:
    gradients = np.full((1, 3), gradient, np.float32)
    to.push(np.array([key], np.uint64), gradients, np.array([times], np.uint32), now)


@pytest.mark.parametrize("threshold", [2, 3, 7])
def test_a_key_gets_its_row_exactly_at_the_threshold(threshold: int) -> None:
    admitting = table(threshold)
    for seen in range(1, threshold + 3):
        push(admitting, 42, 1)
        assert admitting.rows == (seen >= threshold)
        assert admitting.pull(np.array([42], np.uint64))[1].tolist() == [seen >= threshold]


def test_samples_count_and_not_pushes() -> None:
    admitting = table(5)
    for key, times, rows in ((1, 4, 0), (2, 5, 1), (1, 1, 2), (3, 400, 3)):
        push(admitting, key, times)
        assert admitting.rows == rows


def test_thousands_of_keys_are_admitted_each_by_its_own_count() -> None:
    admitting, all_keys = table(6), keys(3000)
    truth: Counter[int] = Counter()
    for part, times in stream(7, all_keys, 150):
        admitting.push(part, np.ones((len(part), 3), np.float32), times, 1)
        truth.update(dict(zip(part.tolist(), times.tolist(), strict=True)))
    expected = {key for key, n in truth.items() if n >= 6}
    assert set(admitting.keys().tolist()) == expected
    assert 100 < len(expected) < len(truth)


def test_until_then_zeros_are_pulled_also_where_rows_begin_with_other_values() -> None:
    admitting, key = table(3, scale=0.5), np.array([42], np.uint64)
    for _ in range(2):
        values, known = admitting.pull(key)
        assert values.tolist() == [[0, 0, 0]]
        assert known.tolist() == [0]
        push(admitting, 42, 1)
    assert admitting.changed(everything=True)[0].tolist() == []
    push(admitting, 42, 1, now=77)
    values, known = admitting.pull(key)
    assert known.tolist() == [1]
    # as it begins where there is no admission: the gradient was that of the zeros
    assert values.tolist() == table(1, scale=0.5).pull(key)[0].tolist()
    assert (values[0, 1:] != 0).all()
    rows = admitting.all_rows()
    assert (rows.touched.tolist(), rows.dirty.tolist()) == ([77], [1])


def test_the_second_gradient_is_the_first_that_is_applied() -> None:
    admitting, at_once, key = table(3), table(1), np.array([42], np.uint64)
    push(admitting, 42, 1, gradient=5.0)
    push(admitting, 42, 2, gradient=-3.0)
    assert admitting.pull(key)[0].tolist() == [[0, 0, 0]]
    for gradient in (0.5, -0.25):
        push(admitting, 42, 1, gradient)
        push(at_once, 42, 1, gradient)
    assert admitting.pull(key)[0].tolist() == at_once.pull(key)[0].tolist()
    assert admitting.pull(key)[0].all()


def test_in_one_push_some_are_admitted_some_known_and_some_neither() -> None:
    admitting = table(3)
    push(admitting, 1, 3)
    push(admitting, 2, 2)
    three = np.array([3, 2, 1], np.uint64)
    # pulled before, as a worker does
    admitting.pull(three)
    admitting.push(three, np.ones((3, 3), np.float32), np.ones(3, np.uint32), 1)
    values, known = admitting.pull(three)
    assert known.tolist() == [0, 1, 1]
    assert values.any(axis=1).tolist() == [False, False, True]


def test_a_key_that_expired_is_known_to_the_sketch() -> None:
    """It was seen often enough once, and comes back at once."""
    spec = TableSpec("t", (Segment("linear", 3, Ftrl()),), admit_after=3, expire_after_s=10)
    admitting = Table(spec, seed=3)
    push(admitting, 42, 3, now=100)
    assert admitting.expire(200) == 1
    push(admitting, 42, 1, now=200)
    assert admitting.rows == 1
