"""What each row says of each action, and that the losses have their minimum at the truth."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

from trainer.features.batch import Targets
from trainer.losses.objective import evaluation_weights, probability, row_losses
from trainer.losses.targets import UNCLEAR, LossKind, LossRules, Sampling, targets

CLICK_WINDOW, PURCHASE_WINDOW = 10_000, 60_000
KINDS = ("click", "purchase")

WAIT = LossRules("plain", KINDS)
FNW = LossRules("fnw", KINDS, 0)
ES_DFM = LossRules("es_dfm", KINDS, 5_000)
DEFER = LossRules("defer", KINDS, 5_000)


def table(*rows: Mapping[str, Any], kinds: Sequence[str] = KINDS) -> pa.Table:
    """What a row does not say: no actions, windows closed as `observed_ms` says, not sampled."""
    windows = {"click": CLICK_WINDOW}
    made = []
    for row in rows:
        plain: dict[str, Any] = {"observed_ms": PURCHASE_WINDOW, "exposed": None, "revision": 0}
        plain |= {"sampling_rate": 1.0, **row}
        for kind in kinds:
            plain.setdefault(f"delay_{kind}_ms", None)
            observed = plain["observed_ms"]
            plain.setdefault(
                f"mature_{kind}",
                observed is not None and windows.get(kind, PURCHASE_WINDOW) <= observed,
            )
        made.append(plain)
    types = {f"delay_{kind}_ms": pa.int64() for kind in kinds}
    types |= {f"mature_{kind}": pa.bool_() for kind in kinds}
    types |= {"observed_ms": pa.int64(), "exposed": pa.bool_(), "sampling_rate": pa.float64()}
    types |= {"revision": pa.int32(), "kind": pa.string()}
    return pa.Table.from_pylist(made, schema=pa.schema(list(types.items())))


def row(kind: str, revision: int, observed: int | None, **of: Any) -> dict[str, Any]:
    names = {"click": "delay_click_ms", "purchase": "delay_purchase_ms"}
    plain: dict[str, Any] = {"kind": kind, "revision": revision, "observed_ms": observed}
    return plain | {names.get(name, name): value for name, value in of.items()}


#: docs/emission-policies.md, "One impression under each of them": the rows of a click at 4 s and a
#: purchase at 40 s, with d = 5 s, and those of an impression that nobody touches.
TOUCHED = {
    "wait": [row("final", 0, 60_000, click=4_000, purchase=40_000)],
    "fake_negative": [
        row("provisional", 0, 0),
        row("positive", 1, 4_000, click=4_000),
        row("positive", 2, 40_000, click=4_000, purchase=40_000),
    ],
    "es_dfm": [
        row("provisional", 0, 5_000, click=4_000),
        row("positive", 1, 40_000, click=4_000, purchase=40_000),
    ],
    "defer": [
        row("provisional", 0, 5_000, click=4_000),
        row("positive", 1, 40_000, click=4_000, purchase=40_000),
        row("final", 2, 60_000, click=4_000, purchase=40_000),
    ],
}
UNTOUCHED = {
    "wait": [row("final", 0, 60_000)],
    "fake_negative": [row("provisional", 0, 0)],
    "es_dfm": [row("provisional", 0, 5_000)],
    "defer": [row("provisional", 0, 5_000), row("final", 1, 60_000)],
}


def said(made: Targets, action: int) -> list[int | None]:
    """By row: the label that counts with weight 1, or None."""
    assert set(np.unique(made.weights)) <= {0.0, 1.0}
    columns = zip(made.labels[:, action], made.weights[:, action], strict=True)
    return [int(label) if weight else None for label, weight in columns]


def said_of_delayed(made: Targets, action: int) -> list[int | None]:
    assert set(np.unique(made.delayed_weights)) <= {0.0, 1.0}
    columns = zip(made.delayed[:, action], made.delayed_weights[:, action], strict=True)
    return [int(label) if weight else None for label, weight in columns]


# -- one impression under each of the policies -----------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "rules", "click", "purchase"),
    [
        ("wait", WAIT, [1], [1]),
        ("fake_negative", FNW, [0, 1, None], [0, None, 1]),
        ("es_dfm", ES_DFM, [1, None], [0, 1]),
        # each twice: the click was known in the first row, so its second one is the final one
        ("defer", DEFER, [1, None, 1], [0, 1, None]),
        # with plain only the final row counts, whatever else is written
        ("defer", WAIT, [None, None, 1], [None, None, 1]),
        ("es_dfm", WAIT, [None, None], [None, None]),
    ],
)
def test_rows_of_a_click_and_a_purchase(
    policy: str, rules: LossRules, click: list[int | None], purchase: list[int | None]
) -> None:
    made = targets(table(*TOUCHED[policy]), rules)
    assert said(made, 0) == click
    assert said(made, 1) == purchase
    assert made.labels.dtype == made.weights.dtype == np.float32


@pytest.mark.parametrize(
    ("policy", "rules", "expected"),
    [
        ("wait", WAIT, [0]),
        ("fake_negative", FNW, [0]),
        ("es_dfm", ES_DFM, [0]),
        ("defer", DEFER, [0, 0]),
    ],
)
def test_rows_of_an_impression_that_nobody_touches(
    policy: str, rules: LossRules, expected: list[int | None]
) -> None:
    made = targets(table(*UNTOUCHED[policy]), rules)
    assert said(made, 0) == said(made, 1) == expected


def test_delayed_positives_of_es_dfm_are_first_rows_and_their_duplicates() -> None:
    made = targets(table(*TOUCHED["es_dfm"], *UNTOUCHED["es_dfm"]), ES_DFM)
    assert said_of_delayed(made, 0) == [0, None, 0]
    assert said_of_delayed(made, 1) == [0, 1, 0]


def test_delayed_positives_of_defer_are_second_rows() -> None:
    made = targets(table(*TOUCHED["defer"], *UNTOUCHED["defer"]), DEFER)
    assert said_of_delayed(made, 0) == [None, None, 0, None, 0]
    assert said_of_delayed(made, 1) == [None, 1, None, None, 0]


@pytest.mark.parametrize("rules", [WAIT, FNW])
def test_other_losses_have_no_delayed_head(rules: LossRules) -> None:
    made = targets(table(*UNTOUCHED["wait"]), rules)
    assert made.delayed.shape == made.delayed_weights.shape == (1, 0)


# -- windows, exposure -----------------------------------------------------------------------------


def test_a_window_that_is_open_counts_neither_for_nor_against() -> None:
    rows = table(row("final", 0, 10_000, purchase=5_000), row("final", 0, 9_999, click=1))
    made = targets(rows, WAIT)
    assert said(made, 0) == [0, None]
    assert said(made, 1) == [None, None]


def test_a_real_negative_needs_its_window_closed() -> None:
    rows = table(row("provisional", 0, 5_000), row("final", 1, 59_999))
    assert said(targets(rows, DEFER), 1) == [0, None]
    assert said_of_delayed(targets(rows, DEFER), 1) == [None, None]


@pytest.mark.parametrize("rules", [FNW, ES_DFM, DEFER])
def test_unexposed_is_no_negative_and_the_row_that_shows_it_is_its_first(rules: LossRules) -> None:
    kinds = ("shown", *KINDS)
    shown = {"delay_shown_ms": 7_000}
    rows = table(
        row("provisional", 0, 5_000, exposed=False),
        row("provisional", 1, 7_000, exposed=True, **shown),
        row("positive", 2, 9_000, exposed=True, click=9_000, **shown),
        kinds=kinds,
    )
    made = targets(rows, LossRules(rules.loss, KINDS, rules.first_emit_after_ms, kinds=kinds))
    assert said(made, 0) == [None, 0, 1]
    assert said(made, 1) == [None, 0, None]
    if rules.loss == "es_dfm":
        assert said_of_delayed(made, 1) == [None, 0, None]


def test_an_exposure_that_is_counted_makes_no_second_negative() -> None:
    kinds = ("shown", "click")
    rules = LossRules("es_dfm", ("click",), 5_000, kinds=kinds, repeats=True)
    rows = table(
        row("provisional", 0, 5_000, exposed=False),
        row("provisional", 1, 7_000, exposed=True, delay_shown_ms=7_000),
        row("provisional", 2, 8_000, exposed=True, delay_shown_ms=7_000),
        kinds=kinds,
    )
    assert said(targets(rows, rules), 0) == [None, 0, None]


def test_plain_takes_null_exposure_as_exposed() -> None:
    rows = table(*(row("final", 0, 60_000, exposed=exposed) for exposed in (None, True, False)))
    assert said(targets(rows, WAIT), 0) == [0, 0, None]


# -- what is new in a positive row -----------------------------------------------------------------


def test_two_kinds_at_once_are_both_new() -> None:
    rows = table(row("positive", 1, 4_000, click=4_000, purchase=4_000))
    made = targets(rows, FNW)
    assert said(made, 0) == said(made, 1) == [1]


@pytest.mark.parametrize("observed", [8_000, 2_000, None])
def test_a_straggler_is_the_latest(observed: int | None) -> None:
    """Its row came after it, or is vouched for less long than labels are known."""
    counts: Counter[str] = Counter()
    rows = table(row("positive", 2, observed, click=3_000, purchase=6_000))
    made = targets(rows, FNW, counts=counts)
    assert (said(made, 0), said(made, 1), counts[UNCLEAR]) == ([None], [1], 0)


def test_where_kinds_repeat_a_straggler_cannot_be_told_from_a_repetition() -> None:
    counts: Counter[str] = Counter()
    rules = LossRules("fnw", KINDS, 0, repeats=True)
    rows = table(
        row("positive", 2, 8_000, click=3_000, purchase=6_000),
        row("positive", 2, 6_000, click=3_000, purchase=6_000),
    )
    made = targets(rows, rules, counts=counts)
    assert (said(made, 0), said(made, 1), counts[UNCLEAR]) == ([None] * 2, [None, 1], 1)


def test_a_kind_that_is_not_learned_can_be_what_is_new() -> None:
    rules = LossRules("fnw", ("click",), 0, kinds=KINDS)
    rows = table(row("positive", 2, 40_000, click=4_000, purchase=40_000))
    assert said(targets(rows, rules), 0) == [None]


def test_a_first_row_may_be_positive_or_final() -> None:
    """Where the impression was not shown before, or its request came just before the deadline."""
    rows = table(row("positive", 0, 7_000, click=7_000), row("final", 0, 60_000, click=7_000))
    made = targets(rows, ES_DFM)
    assert (said(made, 0), said(made, 1)) == ([1, 1], [0, 0])
    assert (said_of_delayed(made, 0), said_of_delayed(made, 1)) == ([0, 0], [0, 0])


# -- corrections -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [WAIT, FNW, ES_DFM, DEFER])
def test_a_correction_is_one_more_positive_of_the_kinds_that_it_makes_so(rules: LossRules) -> None:
    rows = table(
        row("correction", 1, 60_000, click=4_000, purchase=40_000),
        row("correction", 1, 60_000, click=4_000),
    )
    made = targets(rows, rules, np.array([[False, True], [False, False]]))
    assert (said(made, 0), said(made, 1)) == ([None, None], [1, None])
    if rules is ES_DFM:
        assert said_of_delayed(made, 1) == [1, None]
    with pytest.raises(ValueError, match="what they change"):
        targets(rows, rules)


# -- sampling --------------------------------------------------------------------------------------


def test_a_sampled_negative_stands_for_others() -> None:
    rows = table(
        row("final", 0, 60_000, sampling_rate=0.1), row("final", 0, 60_000, click=1, purchase=None)
    )
    made = targets(rows, WAIT)
    assert made.weights.tolist() == [[10.0, 10.0], [1.0, 1.0]]
    made = targets(rows, LossRules("plain", KINDS, sampling="none"))
    assert made.weights.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_log_odds_brings_all_negatives_of_a_kind_to_one_rate() -> None:
    """The second is a negative for the purchase only, so it was not sampled."""
    rows = table(row("final", 0, 60_000, sampling_rate=0.1), row("final", 0, 60_000, click=1))
    rules = LossRules("plain", KINDS, sampling="log_odds", rate=0.1)
    np.testing.assert_allclose(targets(rows, rules).weights, [[1.0, 1.0], [1.0, 0.1]])
    assert rules.offset == pytest.approx(math.log(10))


@pytest.mark.parametrize("rate", [0.0, None, -1.0, math.nan])
def test_a_rate_that_says_nothing_is_an_error(rate: float | None) -> None:
    rows = table(row("final", 0, 60_000), row("final", 0, 60_000, sampling_rate=rate))
    with pytest.raises(ValueError, match="in row 1"):
        targets(rows, WAIT)
    assert targets(rows, LossRules("plain", KINDS, sampling="none")).weights.all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "defer"}, "needs first_emit_after"),
        ({"loss": "fnw", "first_emit_after_ms": 1}, "use es_dfm"),
        ({"loss": "plain", "sampling": "log_odds"}, "needs the rate"),
        ({"loss": "plain", "kinds": ("purchase",)}, "no action 'click'"),
    ],
)
def test_rules_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossRules(actions=("click",), **settings)


def test_dictionaries_in_several_pieces_say_the_same() -> None:
    plain = table(*TOUCHED["defer"], *UNTOUCHED["defer"])
    index = plain.schema.get_field_index("kind")
    pieces = [
        piece.set_column(index, "kind", piece["kind"].dictionary_encode())
        for piece in (plain.slice(0, 2), plain.slice(2, 1), plain.slice(3))
    ]
    made, expected = targets(pa.concat_tables(pieces), DEFER), targets(plain, DEFER)
    for name in ("labels", "weights", "delayed", "delayed_weights"):
        np.testing.assert_array_equal(getattr(made, name), getattr(expected, name))
    assert targets(plain.slice(0, 0), DEFER).labels.shape == (0, 2)


# -- the minimum of each loss is at the truth ------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """For one x: probabilities of an action by d, after d within the window, or not at all."""

    early: float
    delayed: float

    @property
    def p(self) -> float:
        return self.early + self.delayed


TRUTHS = [Truth(0.02, 0.03), Truth(0.3, 0.2), Truth(0.0, 0.6), Truth(0.45, 0.0), Truth(0.1, 0.85)]
RATE = 0.25


def outcomes(policy: str, truth: Truth) -> list[tuple[float, list[dict[str, Any]]]]:
    """What can become of an impression: its probability, and the rows that a policy writes of it.

    Early is after 3 s, delayed after 40 s, d = 5 s (0 s for fake_negative: all is delayed).
    """
    first = 0 if policy == "fake_negative" else 5_000
    cases = []
    for chance, delay in ((truth.early, 3_000), (truth.delayed, 40_000), (1.0 - truth.p, None)):
        known = delay is not None and delay <= first
        rows = [row("provisional", 0, first, purchase=delay if known else None)]
        if delay is not None and not known:
            rows.append(row("positive", 1, delay, purchase=delay))
        if policy == "defer":
            rows.append(row("final", len(rows), 60_000, purchase=delay))
        if policy == "wait":
            rows = [row("final", 0, 60_000, purchase=delay)]
        cases.append((chance, rows))
    return cases


def expected_rows(
    policy: str, truth: Truth, rate: float
) -> tuple[pa.Table, np.ndarray[Any, np.dtype[np.float32]]]:
    """The rows of an impression, and how many there are of each on average.

    Negatives are written at `rate`, so of those there are fewer.
    """
    rows, counts = [], []
    for chance, written in outcomes(policy, truth):
        for one in written:
            negative = one["delay_purchase_ms"] is None
            rows.append(one | {"sampling_rate": rate if negative else 1.0})
            counts.append(chance * (rate if negative else 1.0))
    return table(*rows, kinds=("purchase",)), np.array(counts, np.float32)


def gradient(
    loss: LossKind, policy: str, truth: Truth, rate: float = 1.0, sampling: Sampling = "importance"
) -> list[float]:
    """Of the expected loss over rows of `policy`, by the logits, where these are the truth."""
    d = 0 if loss == "fnw" else 5_000
    rules = LossRules(loss, ("purchase",), d, sampling=sampling, rate=rate)
    rows, counts = expected_rows(policy, truth, rate)
    made = targets(rows, rules)
    delayed_p = max(truth.p if loss == "fnw" else truth.delayed, 1e-7)
    heads = [truth.p, delayed_p] if loss in ("es_dfm", "defer") else [truth.p]
    logits = jnp.array([math.log(q / (1 - q)) for q in heads], jnp.float32)

    def expected_loss(logits: Any) -> Any:
        return row_losses(
            loss,
            jnp.tile(logits, (rows.num_rows, 1)),
            made.labels,
            made.weights * counts[:, None],
            made.delayed,
            made.delayed_weights * counts[:, None],
            rules.offset,
        )

    return [float(slope) for slope in jax.grad(expected_loss)(logits)]


POLICY: Mapping[LossKind, str] = {
    "plain": "wait",
    "fnw": "fake_negative",
    "es_dfm": "es_dfm",
    "defer": "defer",
}


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("loss", list(POLICY))
@pytest.mark.parametrize(
    ("rate", "sampling"), [(1.0, "importance"), (RATE, "importance"), (RATE, "log_odds")]
)
def test_the_truth_is_stationary(
    loss: LossKind, truth: Truth, rate: float, sampling: Sampling
) -> None:
    assert gradient(loss, POLICY[loss], truth, rate, sampling) == pytest.approx(
        [0.0] * (2 if loss in ("es_dfm", "defer") else 1), abs=2e-6
    )


@pytest.mark.parametrize("loss", list(POLICY))
def test_without_regard_to_sampling_it_is_not(loss: LossKind) -> None:
    slope, *_ = gradient(loss, POLICY[loss], Truth(0.3, 0.2), RATE, "none")
    assert abs(slope) > 0.05


@pytest.mark.parametrize("policy", ["fake_negative", "es_dfm", "defer"])
def test_log_loss_without_the_weights_finds_less_than_the_truth(policy: str) -> None:
    """What the importance weights are for: the same rows, each with weight 1."""
    loss: LossKind = next(loss for loss in POLICY if POLICY[loss] == policy)
    truth = Truth(0.3, 0.2)
    rules = LossRules(loss, ("purchase",), 0 if loss == "fnw" else 5_000)
    rows, counts = expected_rows(policy, truth, 1.0)
    made = targets(rows, rules)
    weights = made.weights[:, 0] * counts
    share = float(np.sum(weights * made.labels[:, 0]) / np.sum(weights))
    assert share < truth.p - 0.05
    # and weighted as in metrics, it is the truth again
    heads = [truth.p, truth.delayed] if loss != "fnw" else [truth.p]
    logits = np.tile([math.log(q / (1 - q)) for q in heads], (len(counts), 1)).astype(np.float32)
    weighed = evaluation_weights(loss, logits, made.labels, made.weights)[:, 0] * counts
    share = float(jnp.sum(weighed * made.labels[:, 0]) / jnp.sum(weighed))
    assert share == pytest.approx(truth.p, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "policy"),
    [
        ("es_dfm", "defer"),
        ("fnw", "es_dfm"),
        ("defer", "es_dfm"),
        ("plain", "fake_negative"),
    ],
)
def test_the_weights_are_those_of_one_policy(loss: LossKind, policy: str) -> None:
    """Rows of another policy have another minimum, if the loss takes them."""
    slopes = gradient(loss, policy, Truth(0.3, 0.2))
    if loss == "es_dfm":
        assert slopes == pytest.approx([0.0, 0.0], abs=2e-6)
    elif loss == "plain":
        assert slopes == [0.0]  # no row that it takes
    else:
        assert abs(slopes[0]) > 0.02


@pytest.mark.parametrize("loss", ["fnw", "es_dfm", "defer"])
def test_descent_from_elsewhere_comes_to_the_truth(loss: LossKind) -> None:
    """The two heads together, from p = d = 1/2; by Newton's steps on the mean gradient."""
    truth = Truth(0.1, 0.15)
    rules = LossRules(loss, ("purchase",), 0 if loss == "fnw" else 5_000)
    rows, counts = expected_rows(POLICY[loss], truth, 1.0)
    made = targets(rows, rules)

    def expected_loss(logits: Any) -> Any:
        return row_losses(
            loss,
            jnp.tile(logits, (rows.num_rows, 1)),
            made.labels,
            made.weights * counts[:, None],
            made.delayed,
            made.delayed_weights * counts[:, None],
        )

    slope = jax.jit(jax.grad(expected_loss))
    logits = jnp.zeros(2 if loss != "fnw" else 1)
    for _ in range(400):
        logits = logits - slope(logits)
    found = jax.nn.sigmoid(logits)
    assert float(probability(loss, logits[None, :])[0, 0]) == pytest.approx(truth.p, rel=1e-3)
    if loss != "fnw":
        assert float(found[1]) == pytest.approx(truth.delayed, rel=1e-3)


def test_log_odds_and_importance_come_to_the_same_logit() -> None:
    truth = Truth(0.05, 0.02)
    found = []
    for sampling in ("importance", "log_odds"):
        rules = LossRules("plain", ("purchase",), sampling=sampling, rate=RATE)
        rows, counts = expected_rows("wait", truth, RATE)
        made = targets(rows, rules)
        logits = np.linspace(-6, 3, 9001, dtype=np.float32)
        each = [
            made.weights[:, 0] * counts * _log_loss(logit + rules.offset, made.labels[:, 0])
            for logit in logits
        ]
        found.append(float(logits[np.argmin(np.sum(each, axis=1))]))
    expected = math.log(truth.p / (1 - truth.p))
    assert found == pytest.approx([expected, expected], abs=2e-3)


def _log_loss(logit: float, labels: Any) -> Any:
    p = 1 / (1 + np.exp(-np.float64(logit)))
    return -(labels * np.log(p) + (1 - labels) * np.log1p(-p))


def test_metrics_count_the_negatives_that_the_offset_stands_for() -> None:
    rules = LossRules("plain", ("purchase",), sampling="log_odds", rate=RATE)
    rows, counts = expected_rows("wait", Truth(0.05, 0.02), RATE)
    made = targets(rows, rules)
    logits = jnp.zeros((rows.num_rows, 1))
    weights = evaluation_weights("plain", logits, made.labels, made.weights, rules.offset)[:, 0]
    assert float(jnp.sum(weights * counts)) == pytest.approx(1.0)
    assert float(jnp.sum(weights * counts * made.labels[:, 0])) == pytest.approx(0.07)


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", list(POLICY))
@pytest.mark.parametrize("size", [0.0, 20.0, 50.0, 90.0, 300.0, 1e4])
def test_loss_and_gradient_are_finite_for_any_logits(loss: LossKind, size: float) -> None:
    heads = 2 if loss in ("es_dfm", "defer") else 1
    signs = [
        (*sign, label) for sign in itertools.product((-1, 1), repeat=heads) for label in (0, 1)
    ]
    logits = jnp.array([[size * s for s in sign[:heads]] for sign in signs], jnp.float32)
    labels = jnp.array([[sign[-1]] for sign in signs], jnp.float32)
    delayed = labels[:, : heads - 1]

    def total(logits: Any) -> Any:
        return row_losses(
            loss, logits, labels, jnp.ones_like(labels), delayed, jnp.ones_like(delayed)
        )

    value, slope = jax.value_and_grad(total)(logits)
    assert value.dtype == jnp.float32
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
    weights = evaluation_weights(loss, logits, labels, jnp.ones_like(labels))
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    assert (weights <= 2.0 + 1e-6).all()


def test_plain_is_the_log_loss_of_its_rows() -> None:
    logits = jnp.array([[-50.0, 1.5], [50.0, -0.5]])
    labels, weights = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[1.0, 2.0], [3.0, 0.0]])
    nothing = jnp.zeros((2, 0))
    expected = 50.0 + 2.0 * math.log1p(math.exp(1.5))
    assert float(row_losses("plain", logits, labels, weights, nothing, nothing)) == pytest.approx(
        expected, rel=1e-6
    )
    assert probability("plain", logits).shape == (2, 2)
    assert probability("defer", logits).shape == (2, 1)


@pytest.mark.parametrize(
    ("loss", "p", "d", "positive", "negative"),
    [
        ("fnw", 0.25, None, 1.25, 0.75 * 1.25),
        ("es_dfm", 0.4, 0.2, 1.2, 1.2 * 0.6 / 0.8),
        ("defer", 0.4, 0.2, 0.4 / 0.3, 0.6 / 0.7),
        # a head that says more than the action's own is taken for as much
        ("defer", 0.1, 0.9, 2.0, 0.9 / 1.35),
    ],
)
def test_importance_weights(
    loss: LossKind, p: float, d: float | None, positive: float, negative: float
) -> None:
    heads = [p] if d is None else [p, d]
    logits = np.array([[math.log(q / (1 - q)) for q in heads]] * 2, np.float32)
    labels, ones = np.array([[1.0], [0.0]], np.float32), np.ones((2, 1), np.float32)
    weights = evaluation_weights(loss, logits, labels, 3 * ones)
    assert weights[:, 0].tolist() == pytest.approx([3 * positive, 3 * negative], rel=1e-5)
