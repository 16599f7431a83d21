"""Which negatives are written (docs/join-semantics.md 9): by hand, and by the numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from schemas.actions import ActionKind
from schemas.events import unpack_front
from schemas.features import Feature, FeatureSchema, FeatureType
from schemas.sample_id import sample_ids
from tests import core_runner, oracle
from tests.timeline import Outcome, Request, Rules, Sampling, SamplingRule, parse
from udfs.core import sampling
from udfs.core.emission import Emitted
from udfs.core.sample_rows import SampleWriter
from udfs.core.state_codec import VERSION, StoredRequest
from udfs.core.wire import KindLabels

#: What p has to be above; the seeds are fixed, so a test does not fail now and then.
UNLIKELY = 1e-4
REQUESTS, ITEMS = 10_000, 12

PLAIN = Rules("request_id", {"click": 10}, {"click": "any"})
SEEN = Rules("request_id", {"view": 10, "click": 10}, {"view": "any", "click": "any"})
SEEN = replace(SEEN, exposure="view", unexposed="mark")


def outcome(text: str, rules: Rules, by: Sampling) -> Outcome:
    timeline, rules = parse(text), replace(rules, sampling=by)
    got = core_runner.run(timeline, rules)
    assert got == oracle.expected(timeline, rules)
    return got


def lines(text: str, rules: Rules, by: Sampling) -> list[str]:
    return outcome(text, rules, by).lines()


# -- by hand ---------------------------------------------------------------------------------------


def test_u_is_the_documented_formula() -> None:
    """XXH3-64 of the eight bytes of the sample id, little-endian, seeded; over 2^64."""
    xxhash = pytest.importorskip("xxhash")
    for sample in (0, 1, -1, 2**63 - 1, -(2**63), 6152838421):
        for seed in (0, 7, 2**62 - 1):
            text = sample.to_bytes(8, "little", signed=True)
            u = xxhash.xxh3_64_intdigest(text, seed=seed) / 2**64
            assert float(oracle.u(sample, seed)) == u
            by = sampling.Sampling(seed)
            assert by.keeps(sample, math.nextafter(u, 1))
            assert not by.keeps(sample, u)


def test_none_and_all_are_exact() -> None:
    by = sampling.Sampling()
    assert all(by.keeps(s, 1.0) and not by.keeps(s, 0.0) for s in samples()[:5000])


TWO = "r1 u1 @100 [i1 i2]\nclick u1 i1 r1 @103\nwm 110\nend 110"


def test_what_is_sampled_out_is_counted_and_never_a_positive() -> None:
    got = outcome(TWO, PLAIN, Sampling(0.0))
    assert got.lines() == ["r1[0] i1 click=1+3 @110"]
    assert (got.counters["rows"], got.counters["sampled_out"]) == (1, 1)
    # what is written carries its rate
    assert lines(TWO, PLAIN, Sampling(0.999))[1] == "r1[1] i2 click=0 rate=0.999 @110"


def test_a_version_that_was_sampled_out_counts() -> None:
    early = replace(PLAIN, first_emit_after=0, emit_positives="on_arrival")
    got = outcome(TWO, early, Sampling(0.0))
    assert got.lines() == [
        "r1[0] i1 click=1+3~ positive r1 after 3 @110",
        "r1[0] i1 click=1+3 r2 @110",
    ]
    assert got.counters["sampled_out"] == 3
    # and it is a row where that is asked: no change at the deadline
    assert lines(TWO, replace(early, final_emit="if_changed"), Sampling(0.0)) == got.lines()[:1]


def test_a_view_makes_no_positive() -> None:
    text = "r1 u1 @100 [i1 i2 i3]\nview u1 i1 r1 @103\nclick u1 i2 r1 @103\nwm 110\nend 110"
    assert lines(text, SEEN, Sampling(0.0)) == ["r1[1] i2 view=0 click=1+3 exposed @110"]
    # where views are labels like any other, it does
    as_label = replace(SEEN, exposure=None)
    assert len(lines(text, as_label, Sampling(0.0))) == 2


def test_the_first_rule_that_fits_gives_the_rate() -> None:
    text = "r1 u1 @100 [i1 i2 i3 i4]\nview u1 i1 r1 @103\nview u1 i2 r1 @103\nwm 110\nend 110"
    rules = (
        SamplingRule(0.0, negative="unexposed", feature="item", equals="i3"),
        SamplingRule(1.0, feature="item", equals="i1"),
        SamplingRule(0.0, negative="exposed"),
        SamplingRule(0.0, feature="item", equals="i1"),
    )
    assert lines(text, SEEN, Sampling(1.0, rules=rules)) == [
        "r1[0] i1 view=1+3 click=0 exposed @110",
        "r1[3] i4 view=0 click=0 unexposed @110",
    ]


def test_without_exposure_every_negative_is_exposed() -> None:
    for kind, left in (("exposed", 1), ("unexposed", 2)):
        by = Sampling(rules=(SamplingRule(0.0, negative=kind),))  # type: ignore[arg-type]
        assert len(outcome(TWO, PLAIN, by).rows) == left


@pytest.mark.parametrize(
    ("feature", "equals", "fits"),
    [
        ("first", True, (0,)),
        ("first", False, (1, 2)),
        ("first", 1, ()),  # true is not 1
        ("size", 3, (0, 1, 2)),
        ("size", True, ()),
        ("next", "i3", (1,)),  # and a missing value is none
        ("next", "None", ()),
        ("item", "i2", (1,)),
    ],
)
def test_rules_by_a_feature(feature: str, equals: Any, fits: tuple[int, ...]) -> None:
    by = Sampling(1.0, rules=(SamplingRule(0.0, feature=feature, equals=equals),))
    got = outcome("r1 u1 @100 [i1 i2 i3]\nwm 110\nend 110", PLAIN, by)
    assert {row.position for row in got.rows} == {0, 1, 2} - set(fits)


def test_a_feature_that_a_request_in_state_did_not_have_fits_nothing() -> None:
    """It was accepted before the feature was declared: null."""
    new = Feature("age", FeatureType("int64"), "context")
    schema = FeatureSchema.of((*core_runner.SCHEMA.features, new))
    rule = sampling.SamplingRule(0.0, feature="age", equals=0)
    writer = SampleWriter(schema, [ActionKind("click", 10)], None, sampling.Sampling(rules=(rule,)))
    request = Request("r1", "u1", 100, ("i1", "i2"))
    body = core_runner.request_event(request).body
    stored = StoredRequest(VERSION, "r1", 100, 110, 130, ["i1", "i2"], False, body)
    emitted = Emitted(
        stored,
        unpack_front(body),
        body,
        "deadline",
        [KindLabels(None, None, True)],
        10,
        None,
        None,
        None,
    )
    (rows,), sampled_out = writer.rows(emitted)
    assert (rows.positions, rows.rates, sampled_out) == (None, [1.0, 1.0], 0)


# -- by the numbers --------------------------------------------------------------------------------


@cache
def samples() -> list[int]:
    """The ids of 120 000 impressions, in order of request and position."""
    out: list[int] = []
    for r in range(REQUESTS):
        out += sample_ids(f"req-{r:07}", [f"item-{(r * 7 + p) % 997}" for p in range(ITEMS)])
    return out


def kept(rate: float, seed: int) -> list[bool]:
    by = sampling.Sampling(seed)
    return [by.keeps(sample, rate) for sample in samples()]


def p_value(statistic: float, degrees: int) -> float:
    """How often a chi-square is above that: Q(degrees / 2, statistic / 2), exact, by the recurrence
    Q(a + 1, x) = Q(a, x) + x^a e^-x / Gamma(a + 1) (DLMF 8.8.6).
    """
    x = statistic / 2
    a, q = (1.0, math.exp(-x)) if degrees % 2 == 0 else (0.5, math.erfc(math.sqrt(x)))
    while a < degrees / 2:
        q += math.exp(a * math.log(x) - x - math.lgamma(a + 1))
        a += 1
    return q


def chi_square(one: Sequence[Hashable], other: Sequence[Hashable]) -> tuple[float, int]:
    """Pearson's statistic of a contingency table, and its degrees of freedom."""
    n, table = len(one), Counter(zip(one, other, strict=True))
    rows, columns = Counter(one), Counter(other)
    statistic = 0.0
    for r, in_row in rows.items():
        for c, in_column in columns.items():
            expected = in_row * in_column / n
            assert expected > 20
            statistic += (table[r, c] - expected) ** 2 / expected
    return statistic, (len(rows) - 1) * (len(columns) - 1)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2**61])
def test_the_share_that_is_kept_is_the_rate(rate: float, seed: int) -> None:
    n = len(samples())
    assert n >= 100_000
    error = math.sqrt(rate * (1 - rate) / n)
    assert abs(sum(kept(rate, seed)) / n - rate) < 4 * error


#: Of an impression by its index: what must have nothing to do with its being kept.
OTHERS: dict[str, Callable[[int], Hashable]] = {
    "position": lambda i: i % ITEMS,
    "item": lambda i: ((i // ITEMS) * 7 + i % ITEMS) % 997 % 20,
    "request": lambda i: i // ITEMS % 50,
    "label of the request's first item": lambda i: samples()[i - i % ITEMS] % 3 == 0,
    "sample id's last bits": lambda i: samples()[i] % 16,
    "sample id's first bits": lambda i: samples()[i] >> 60,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_kept_is_independent_of(name: str) -> None:
    others = [OTHERS[name](i) for i in range(len(samples()))]
    statistic, degrees = chi_square(kept(0.2, seed=3), others)
    assert p_value(statistic, degrees) > UNLIKELY


def test_neighbours_and_other_seeds_are_independent() -> None:
    mine = kept(0.3, seed=3)
    for other in (kept(0.3, seed=4), kept(0.3, seed=3 + 2**32), [*mine[1:], mine[0]]):
        statistic, degrees = chi_square(mine, other)
        assert p_value(statistic, degrees) > UNLIKELY


def test_the_table_would_tell() -> None:
    """The statistic does see what is not independent, if only a little."""
    mine = kept(0.2, seed=3)
    biased = [k or (i % ITEMS == 0 and i % 50 == 0) for i, k in enumerate(mine)]
    statistic, degrees = chi_square(biased, [i % ITEMS for i in range(len(mine))])
    assert p_value(statistic, degrees) < UNLIKELY
    # from tables of the distribution
    for quantile, degrees in ((15.137, 1), (35.564, 10), (161.319, 100)):
        assert p_value(quantile, degrees) == pytest.approx(UNLIKELY, rel=1e-3)


def test_a_replay_picks_the_same_and_a_lower_rate_a_subset() -> None:
    assert kept(0.3, seed=5) == kept(0.3, seed=5)
    before: list[bool] | None = None
    for rate in (0.0, 0.001, 0.1, 0.100001, 0.5, 1.0):
        now = kept(rate, seed=5)
        assert before is None or all(k for k, was in zip(now, before, strict=True) if was)
        before = now


def test_all_versions_of_a_sample_are_picked_alike() -> None:
    """So a trainer sees all negatives of an impression or none, at one rate."""
    rules = replace(
        PLAIN, first_emit_after=5, emit_positives="on_arrival", sampling=Sampling(0.5, 9)
    )
    text = "\n".join(f"r{i} u1 @100 [i1 i2 i3]" for i in range(100)) + "\nwm 200\nend 200"
    rows = core_runner.run(parse(text), rules).rows
    versions = Counter((row.request_id, row.position) for row in rows)
    assert set(versions.values()) == {2}
    assert 100 < len(versions) < 200
