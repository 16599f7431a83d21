"""The delay estimates: against a worked example, and against distributions that are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tools.advise_window.delays import AllAlikeError, DelayEstimate, TooFewActionsError
from tools.advise_window.observations import Floats, KindObservations, observe
from tools.advise_window.survival import kaplan_meier
from tools.advise_window.tail import fit_all

MINUTE = 60_000.0
DAY = 1_440 * MINUTE

LOG_NORMAL = stats.lognorm(1.0, scale=10 * MINUTE)
WEIBULL = stats.weibull_min(0.7, scale=10 * MINUTE)
EXPONENTIAL = stats.expon(scale=10 * MINUTE)


def world(
    delays: object,
    horizon: float,
    *,
    seed: int = 0,
    impressions: int = 200_000,
    acting: float = 0.03,
    span: float = DAY,
    sampled: float = 1.0,
) -> KindObservations:
    """Impressions over `span`, followed up to `horizon` or the end; most never act."""
    rng = np.random.default_rng(seed)
    times = rng.uniform(0, span, impressions)
    drawn = delays.rvs(impressions, random_state=rng)  # type: ignore[attr-defined]
    acts = rng.random(impressions) < acting
    follow = np.minimum(horizon, span - times)
    seen = np.where(acts & (drawn <= follow), np.rint(drawn), np.nan)
    kept = ~np.isnan(seen) | (rng.random(impressions) < sampled)
    weights = np.where(np.isnan(seen), 1 / sampled, 1.0)
    return observe("buy", int(MINUTE), seen[kept], follow[kept], weights[kept])


# -- Kaplan-Meier ----------------------------------------------------------------------------------

#: Weeks in remission on 6-MP, Freireich et al., Blood 1963; worked through in Kleinbaum & Klein,
#: "Survival Analysis", chapter 2 (standard errors by Greenwood's formula).
RELAPSED = [6, 6, 6, 7, 10, 13, 16, 22, 23]
CENSORED = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
WORKED = {
    6: (0.857, 0.076),
    7: (0.807, 0.087),
    10: (0.753, 0.096),
    13: (0.690, 0.107),
    16: (0.627, 0.114),
    22: (0.538, 0.128),
    23: (0.448, 0.135),
}


def test_kaplan_meier_and_greenwood_as_worked_in_the_literature() -> None:
    delays = np.array(RELAPSED + [np.nan] * len(CENSORED), dtype=np.float64)
    follow = np.array([99] * len(RELAPSED) + CENSORED, dtype=np.float64)
    km = kaplan_meier(observe("relapse", 1, delays, follow, np.ones(len(delays))))
    assert km.times.tolist() == list(WORKED)
    assert km.at_risk.tolist() == [21, 17, 15, 12, 11, 7, 6]
    remaining = 1 - km.acted
    for n, (survival, error) in enumerate(WORKED.values()):
        assert remaining[n] == pytest.approx(survival, abs=6e-4)
        assert remaining[n] * np.sqrt(km.greenwood[n]) == pytest.approx(error, abs=6e-4)


def test_kaplan_meier_is_that_of_scipy() -> None:
    observations = world(LOG_NORMAL, 30 * MINUTE, impressions=3_000, span=60 * MINUTE)
    km = kaplan_meier(observations)
    idle = np.repeat(observations.idle_follow, observations.idle_weight.astype(int))
    theirs = stats.ecdf(stats.CensoredData(uncensored=observations.delays, right=idle))
    assert km.acted == pytest.approx(theirs.cdf.evaluate(km.times), abs=1e-12)


# -- the tail --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "truth"),
    [("log-normal", LOG_NORMAL), ("Weibull", WEIBULL), ("exponential", EXPONENTIAL)],
)
def test_the_right_family_is_found_from_truncated_delays(name: str, truth: object) -> None:
    horizon = float(truth.ppf(0.8))  # type: ignore[attr-defined]
    fits = fit_all(world(truth, horizon, impressions=600_000))
    by_name = {fit.family.name: fit for fit in fits}
    # the exponential is a Weibull: then the simpler one is plausible at least
    assert by_name[name].aic <= fits[0].aic + 4
    assert not by_name[name].loose
    for share in (0.5, 0.8, 0.95):
        wait = float(truth.ppf(share))  # type: ignore[attr-defined]
        assert by_name[name].wait(share) == pytest.approx(wait, rel=0.15)


def test_the_gradient_is_that_of_the_likelihood() -> None:
    for fit in fit_all(world(LOG_NORMAL, 30 * MINUTE)):
        # at the maximum the scores cancel out, unless the family is stuck at a bound
        if not fit.loose:
            assert fit.scores.mean(axis=0) == pytest.approx(0, abs=1e-4)
        waits, step = np.array([5 * MINUTE, 40 * MINUTE]), 1e-6
        for n in range(fit.family.free):
            moved = [fit.theta + sign * step * np.eye(2)[n] for sign in (1, -1)]
            up, down = (np.log(_share(fit.family.base, theta, waits)) for theta in moved)
            assert fit.gradient(waits)[:, n] == pytest.approx((up - down) / (2 * step), rel=1e-4)


def _share(base: stats.rv_continuous, theta: Floats, waits: Floats) -> Floats:
    return np.asarray(base.cdf((np.log(waits) - theta[0]) / np.exp(theta[1])), dtype=np.float64)


# -- windows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("reached", [1.0, 0.98, 0.9])
def test_windows_are_not_understated_by_a_horizon_that_cuts(target: float, reached: float) -> None:
    horizon = float(LOG_NORMAL.ppf(reached)) if reached < 1 else DAY
    observations = world(LOG_NORMAL, horizon, impressions=1_000_000)
    estimate = DelayEstimate(observations)
    advice = estimate.window(target)
    truth = float(LOG_NORMAL.ppf(target))
    assert advice.low <= truth
    if reached < 0.95:
        assert estimate.seen_quantile(target) < 0.8 * truth, "what is seen is all too early"
        assert not advice.told, "only a family would say what the horizon cuts off"
        assert np.isnan(advice.window_ms)
        return
    assert advice.window_ms == pytest.approx(truth, rel=0.05)
    assert advice.low <= advice.window_ms <= advice.high
    assert advice.basis == ("observed" if advice.high <= horizon else "extrapolated")


def test_recent_requests_do_not_look_faster_than_they_are() -> None:
    # half of the requests were followed for less than the median
    observations = world(EXPONENTIAL, DAY, span=14 * MINUTE, impressions=400_000)
    estimate = DelayEstimate(observations)
    waits = np.array([3 * MINUTE, 7 * MINUTE])
    truth, band = EXPONENTIAL.cdf(waits), estimate.completeness(waits)
    assert (band.low <= truth).all()
    assert (truth <= band.high).all()
    assert (estimate.share_of_seen(waits) > 1.3 * truth).all()
    # one to the other, which needs no extrapolation
    assert band.value[0] / band.value[1] == pytest.approx(truth[0] / truth[1], rel=0.05)


def test_the_share_that_ever_acts_with_and_without_negative_sampling() -> None:
    for sampled in (1.0, 0.1):
        observations = world(LOG_NORMAL, 30 * MINUTE, sampled=sampled)
        assert observations.impressions == pytest.approx(200_000, rel=0.02)
        assert DelayEstimate(observations).ever_act == pytest.approx(0.03, rel=0.06)


@pytest.mark.parametrize(("truth", "reached"), [(LOG_NORMAL, 0.95), (WEIBULL, 1.0)])
def test_intervals_cover_the_truth_as_often_as_they_say(truth: object, reached: float) -> None:
    quantile: Callable[[float], float] = truth.ppf  # type: ignore[attr-defined]
    horizon = quantile(reached) if reached < 1 else DAY
    hits = []
    for seed in range(25):
        estimate = DelayEstimate(world(truth, horizon, seed=seed, impressions=20_000))
        for target in (0.5, 0.9):
            advice = estimate.window(target)
            hits.append(advice.low <= quantile(target) <= advice.high)
    # 95 %; of 50 that hang together in pairs 85 % is a safe margin
    assert np.mean(hits) >= 0.85


# -- refusals --------------------------------------------------------------------------------------


def test_too_few_actions_are_said_to_be_too_few() -> None:
    with pytest.raises(TooFewActionsError, match="actions were seen, and 50 are needed"):
        DelayEstimate(world(LOG_NORMAL, DAY, impressions=1_000))


def test_actions_that_all_come_at_the_time_of_their_request_say_nothing() -> None:
    same = observe("view", 1, np.zeros(100), np.full(100, DAY), np.ones(100))
    with pytest.raises(AllAlikeError, match="all 100 actions came 0 ms after their request"):
        DelayEstimate(same)


def test_a_horizon_far_too_short_gives_no_advice() -> None:
    estimate = DelayEstimate(world(LOG_NORMAL, 5 * MINUTE, impressions=50_000))
    advice = estimate.window(0.95)
    assert advice.basis == "cannot tell"
    assert advice.why
    assert advice.high > 2 * advice.low
    assert estimate.completeness(np.array([5 * MINUTE])).low[0] < LOG_NORMAL.cdf(5 * MINUTE)


def test_delays_like_no_family_are_not_extrapolated() -> None:
    rng = np.random.default_rng(1)
    fast, slow = rng.normal(MINUTE, 2_000, 3_000), rng.normal(30 * MINUTE, 60_000, 3_000)
    delays = np.concatenate([fast, slow])
    observations = observe("buy", 1, delays, np.full(6_000, 30 * MINUTE), np.ones(6_000))
    advice = DelayEstimate(observations).window(0.95)
    assert advice.basis == "cannot tell"
    # the same delays, followed until nothing more comes, need no family
    followed = observe("buy", 1, delays, np.full(6_000, DAY), np.ones(6_000))
    advice = DelayEstimate(followed).window(0.95)
    assert advice.basis == "observed"
    assert advice.window_ms == pytest.approx(np.quantile(delays, 0.95), rel=0.01)


#: Delays of many shapes, most of no family that is fitted. The mixtures have a second, slow part.
SHAPES: dict[str, list[tuple[float, stats.rv_continuous]]] = {
    "log-normal": [(1.0, LOG_NORMAL)],
    "Weibull": [(1.0, stats.weibull_min(0.4, scale=5 * MINUTE))],
    "exponential": [(1.0, EXPONENTIAL)],
    "gamma": [(1.0, stats.gamma(0.5, scale=20 * MINUTE))],
    "log-logistic": [(1.0, stats.fisk(1.5, scale=5 * MINUTE))],
    "Pareto": [(1.0, stats.lomax(1.2, scale=3 * MINUTE))],
    "two log-normals": [
        (0.85, stats.lognorm(1.1, scale=1.5 * MINUTE)),
        (0.15, stats.lognorm(1.0, scale=15 * MINUTE)),
    ],
    "two exponentials": [(0.6, stats.expon(scale=MINUTE)), (0.4, stats.expon(scale=30 * MINUTE))],
    "fast and slow": [
        (0.7, stats.lognorm(0.8, scale=MINUTE)),
        (0.3, stats.lognorm(0.8, scale=180 * MINUTE)),
    ],
}


class _Mixture:
    def __init__(self, parts: list[tuple[float, stats.rv_continuous]]) -> None:
        self._parts = parts

    def rvs(self, size: int, random_state: np.random.Generator) -> Floats:
        which = random_state.choice(len(self._parts), size, p=[w for w, _ in self._parts])
        drawn = [d.rvs(size, random_state=random_state) for _, d in self._parts]
        return np.asarray(np.stack(drawn)[which, np.arange(size)], dtype=np.float64)

    def cdf(self, waits: Floats) -> Floats:
        return np.asarray(sum(w * d.cdf(waits) for w, d in self._parts), dtype=np.float64)

    def ppf(self, share: float) -> float:
        waits = np.geomspace(1, 1e11, 100_000)
        return float(np.interp(share, self.cdf(waits), waits))


@pytest.mark.parametrize("reached", [0.6, 0.9, 0.96, 0.998])
def test_no_figure_is_shown_that_is_off_by_more_than_it_says(reached: float) -> None:
    right = right_bounds = told = shown = 0
    for name, parts in SHAPES.items():
        truth = _Mixture(parts)
        horizon = truth.ppf(reached)
        for seed in range(1):
            observed = world(
                truth, horizon, seed=seed, impressions=40_000, acting=0.2, span=horizon + 10 * DAY
            )
            estimate = DelayEstimate(observed)
            advice = estimate.window(0.95)
            at_most = estimate.at_most(np.array([horizon / 4, horizon]))
            shown += 3
            right_bounds += int((truth.cdf(np.array([horizon / 4, horizon])) <= at_most).sum())
            right_bounds += advice.low <= truth.ppf(0.95)
            if reached < 0.8:
                assert not advice.told, name
            if not advice.told:
                assert np.isnan(advice.window_ms)
                assert advice.high == np.inf
                continue
            waits = np.array([advice.window_ms / 4, advice.window_ms, 2 * advice.window_ms])
            band, complete = estimate.completeness(waits), truth.cdf(waits)
            right += int(advice.low <= truth.ppf(0.95) <= advice.high)
            right += int(((band.low - 1e-3 <= complete) & (complete <= band.high + 1e-3)).sum())
            told += 4
    assert right_bounds >= 0.95 * shown
    assert right >= 0.9 * told
    if reached > 0.99:
        assert told >= 0.7 * 4 * len(SHAPES), "a sufficient horizon is not refused"


def test_actions_beyond_the_horizon_refute_an_answer() -> None:
    observed = world(LOG_NORMAL, float(LOG_NORMAL.ppf(0.998)))
    horizon = observed.reach
    for beyond, told in ((0, True), (10, True), (3_000, False)):
        advice = DelayEstimate(replace(observed, beyond=beyond, horizon=horizon)).window(0.95)
        assert advice.told == told
    assert "3,000 actions came after the late horizon" in advice.why


def test_times_in_whole_minutes_do_no_harm() -> None:
    observations = world(LOG_NORMAL, DAY)
    minutes = np.floor(observations.delays / 60_000) * 60_000
    assert (minutes == 0).any()
    coarse = observe("buy", 1, minutes, observations.follow, np.ones(len(minutes)))
    advice = DelayEstimate(coarse).window(0.95)
    assert abs(advice.window_ms - np.quantile(observations.delays, 0.95)) <= 60_000
