"""When a share of bad outcomes is said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from udfs.core.outcome_watch import OutcomeWatch


def said(outcomes: list[bool], bound: float, stretch: int) -> list[int]:
    """The events (by number) at which the watch speaks; True is a bad outcome."""
    watch = OutcomeWatch(bound, stretch)
    spoke = []
    for i, bad in enumerate(outcomes):
        if not bad:
            watch.good()
        elif watch.bad() is not None:
            spoke.append(i)
    return spoke


def test_it_speaks_as_soon_as_the_share_is_certain() -> None:
    # 10 % of 100: the eleventh bad one
    assert said([True] * 20 + [False] * 80, 0.1, 100) == [10]
    assert said([True] * 10 + [False] * 90, 0.1, 100) == []


def test_it_doubles_its_silence_and_begins_anew_after_a_good_stretch() -> None:
    bad, good = [True] * 10, [False] * 10
    stretches = [i // 10 for i in said(bad * 20, 0.5, 10)]
    assert stretches == [0, 1, 3, 7, 15]
    assert [i // 10 for i in said(bad * 3 + good + bad, 0.5, 10)] == [0, 1, 4]


@given(st.lists(st.booleans(), max_size=300), st.sampled_from([0.0, 0.05, 0.5, 0.99, 1.0]))
def test_it_speaks_of_bad_stretches_only_and_of_each_first_one(
    outcomes: list[bool], bound: float
) -> None:
    stretch = 20
    parts = [outcomes[i : i + stretch] for i in range(0, len(outcomes), stretch)]
    over = [sum(part) > bound * stretch for part in parts]
    spoken = {i // stretch for i in said(outcomes, bound, stretch)}
    assert all(over[i] for i in spoken)
    first = {i for i, bad in enumerate(over) if bad and not (i and over[i - 1])}
    assert first <= spoken
