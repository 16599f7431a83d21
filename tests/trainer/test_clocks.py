"""Which worker may begin: every bound holds under any schedule, and is reached by some."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import get_args

import pytest

from trainer.run.clocks import Clocks, Consistency

SEEDS = range(200)


def begin_all(clocks: Clocks, idle: set[int]) -> None:
    """Whoever may, the one that is the furthest behind first: as the coordinator does."""
    for worker in sorted(idle, key=lambda w: clocks.clocks[w]):
        if not clocks.may_begin(worker):
            return
        clocks.begin(worker)
        idle.discard(worker)


def runs(
    clocks: Clocks, seed: int, *, steps: int, checked: Callable[[set[int], int], None]
) -> None:
    """A random schedule; `checked` gets the busy workers and the lead of one that may begin."""
    rng = random.Random(seed)
    workers = range(len(clocks.clocks))
    # some are slow: they end a batch rarely
    weights = [rng.choice([1, 1, 10, 100]) for _ in workers]
    busy: set[int] = set()
    for _ in range(steps):
        worker = rng.choices(workers, weights)[0]
        if worker in busy:
            clocks.finish(worker)
            busy.discard(worker)
        elif clocks.may_begin(worker):
            lead = clocks.clocks[worker] - min(clocks.clocks)
            clocks.begin(worker)
            busy.add(worker)
            checked(busy, lead)
        assert clocks.in_flight == len(busy)


@pytest.mark.parametrize("staleness", [0, 1, 4])
def test_no_worker_begins_further_ahead_than_the_staleness(staleness: int) -> None:
    widest = 0
    for seed in SEEDS:
        clocks = Clocks("ssp", 2 + seed % 6, staleness, 8)

        def checked(_: set[int], lead: int) -> None:
            assert lead <= staleness

        runs(clocks, seed, steps=150, checked=checked)
        assert clocks.widest <= staleness
        widest = max(widest, clocks.widest)
    assert widest == staleness, "the bound was reached"


def test_without_the_bound_the_same_schedules_go_further() -> None:
    widest = 0
    for seed in SEEDS:
        clocks = Clocks("async", 2 + seed % 6, 4, 8)
        runs(clocks, seed, steps=150, checked=lambda _busy, _lead: None)
        assert clocks.held == 0
        widest = max(widest, clocks.widest)
    assert widest > 4


@pytest.mark.parametrize("consistency", get_args(Consistency))
@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_more_are_in_flight_than_the_cap(consistency: Consistency, most: int) -> None:
    fullest = 0
    for seed in SEEDS:

        def checked(busy: set[int], _: int) -> None:
            nonlocal fullest
            assert len(busy) <= most
            fullest = max(fullest, len(busy))

        runs(Clocks(consistency, 5, 2, most), seed, steps=100, checked=checked)
    assert fullest == most


def test_a_cap_of_nothing_would_be_a_standstill_and_is_one() -> None:
    clocks = Clocks("async", 3, 0, 0)
    assert clocks.may_begin(1)
    clocks.begin(1)
    assert not clocks.may_begin(0)


def test_staleness_zero_is_lockstep() -> None:
    for seed in SEEDS:
        clocks = Clocks("ssp", 4, 0, 4)

        def checked(_: set[int], lead: int, clocks: Clocks = clocks) -> None:
            assert lead == 0
            assert max(clocks.clocks) - min(clocks.clocks) <= 1

        runs(clocks, seed, steps=150, checked=checked)


@pytest.mark.parametrize("staleness", [0, 1, 4])
def test_the_others_wait_for_one_that_does_not_end(staleness: int) -> None:
    clocks = Clocks("ssp", 3, staleness, 3)
    idle = {1, 2}
    assert clocks.may_begin(0)
    clocks.begin(0)
    for _ in range(20):
        begin_all(clocks, idle)
        for worker in {1, 2} - idle:
            clocks.finish(worker)
            idle.add(worker)
    assert clocks.clocks == [0, staleness + 1, staleness + 1]
    assert clocks.in_flight == 1
    assert clocks.held > 0
    clocks.finish(0)
    assert clocks.may_begin(1), "and go on when it does"


@pytest.mark.parametrize("seed", range(20))
def test_somebody_may_always_go_on(seed: int) -> None:
    rng = random.Random(seed)
    clocks = Clocks("ssp", 5, rng.randrange(3), rng.randrange(1, 6))
    idle = set(range(5))
    for _ in range(100):
        begin_all(clocks, idle)
        busy = sorted(set(range(5)) - idle)
        assert busy
        worker = rng.choice(busy)
        clocks.finish(worker)
        idle.add(worker)


@pytest.mark.parametrize("consistency", get_args(Consistency))
def test_a_busy_worker_may_not_begin(consistency: Consistency) -> None:
    clocks = Clocks(consistency, 2, 5, 5)
    clocks.begin(0)
    assert not clocks.may_begin(0)
    clocks.finish(0)
    assert clocks.may_begin(0)
    assert clocks.clocks == [1, 0]


def test_a_rollback_forgets_what_was_in_flight() -> None:
    clocks = Clocks("ssp", 3, 0, 2)
    clocks.begin(0)
    clocks.begin(1)
    assert not clocks.may_begin(2)
    clocks.reset()
    assert clocks.in_flight == 0
    assert clocks.clocks == [0, 0, 0], "what was not finished was not done"
    assert all(clocks.may_begin(worker) for worker in range(3))
