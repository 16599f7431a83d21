"""Completeness: of the impressions that will ever act, the share that has acted after a wait.

Up to the reach t of the data it is K(w) / K(t) * F(t). The Kaplan-Meier curve K gives the shape.
The fitted family F is used only for the share of the actors that act within the reach. Beyond the
reach, completeness is F(w). Bands are pointwise, by the delta method on the logit, with the
covariance of both parts. They span all families that are as plausible as the best one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy import special, stats

from tools.advise_window.observations import Floats, KindObservations
from tools.advise_window.remainder import Remainder, remainder
from tools.advise_window.survival import KaplanMeier, kaplan_meier
from tools.advise_window.tail import Fit, clear_of_zero, fit_all

#: Fewer actions than this say nothing about a tail.
MIN_ACTIONS = 50
#: A family is plausible up to this much above the least AIC (Burnham & Anderson 2002, 2.6).
AIC_MARGIN = 4.0
#: An interval whose ends are further apart than this factor is no advice.
MAX_SPREAD = 2.0
#: How far a family may be from the curve that was observed (a Kolmogorov distance).
MAX_DISTANCE = 0.03
#: Windows are looked for up to this many times the reach.
LOOK_AHEAD = 1_000.0

Basis = Literal["observed", "extrapolated", "cannot tell"]


@dataclass(frozen=True)
class Band:
    """Completeness at some waits: the estimate and its interval, arrays of one length."""

    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Advice:
    """The shortest window (ms) that reaches a target completeness, with its interval.

    If the data do not suffice, `why` says so. Then `window_ms` is NaN, `high` is infinite, and
    `low` is the limit that holds whatever comes beyond the reach.
    """

    target: float
    window_ms: float
    low: float
    high: float
    basis: Basis
    why: str = ""

    @property
    def told(self) -> bool:
        """Whether there is an advice."""
        return self.basis != "cannot tell"


class NoEstimateError(Exception):
    """There is nothing to estimate from; the message says why."""


class TooFewActionsError(NoEstimateError):
    """Not enough actions were seen to say anything."""


class AllAlikeError(NoEstimateError):
    """All delays are equal: the log may give actions the time of their request."""


class DelayEstimate:
    """The delays of one kind. Raises TooFewActionsError or AllAlikeError."""

    def __init__(self, observations: KindObservations, confidence: float = 0.95) -> None:
        self.kind = observations.kind
        self.configured_ms = observations.window_ms
        self.reach = observations.reach
        self.impressions = observations.impressions
        self.beyond = observations.beyond
        self.horizon = observations.horizon
        within = observations.until(self.reach)
        if len(within.delays) < MIN_ACTIONS:
            raise TooFewActionsError(
                f"{len(within.delays)} actions were seen, and {MIN_ACTIONS} are needed"
            )
        if within.delays.min() == within.delays.max():
            raise AllAlikeError(
                f"all {len(within.delays):,} actions came {within.delays[0]:.0f} ms after their"
                " request: the log does not say when"
            )
        self.actions = len(within.delays)
        self._z = float(stats.norm.ppf((1 + confidence) / 2))
        self._seen = np.sort(observations.delays)
        self._km: KaplanMeier = kaplan_meier(within)
        self._delays, _ = clear_of_zero(within)
        self._raw_delays = within.delays
        self.fits = fit_all(within)
        self.remainder: Remainder = remainder(self._km, self.reach, confidence)

    # -- the reach ---------------------------------------------------------------------------------

    @property
    def best(self) -> Fit:
        """The family with the least AIC."""
        return self.fits[0]

    @cached_property
    def plausible(self) -> list[Fit]:
        """The families that the data do not tell apart, the best first."""
        return [fit for fit in self.fits if fit.aic <= self.best.aic + AIC_MARGIN]

    @cached_property
    def by_family(self) -> bool:
        """Whether the best family fits the data, and says where the delays end."""
        return self.fits_well and not self.best.loose

    @cached_property
    def within_reach(self) -> float:
        """Of those that ever act, the estimated share that acts within the reach."""
        if not self.by_family and self.remainder.bounded:
            return 1 / (1 + self.remainder.beyond)
        return self._family_within_reach

    @property
    def _family_within_reach(self) -> float:
        return float(self.best.acted(np.array([self.reach]))[0])

    @cached_property
    def distance(self) -> float:
        """The greatest distance between the best family and the observed curve, up to the reach."""
        observed = self._km.acted / self._km.acted[-1]
        times = np.maximum(self._km.times, self._delays.min())
        model = self.best.acted(times) / self._family_within_reach
        before = np.concatenate([[0.0], observed[:-1]])
        return float(np.maximum(np.abs(observed - model), np.abs(before - model)).max())

    @property
    def fits_well(self) -> bool:
        """Whether the best family is near enough to the Kaplan-Meier curve.

        That is within `MAX_DISTANCE`, or within what chance alone explains at 1 % (Kolmogorov).
        """
        noise = 1.63 / math.sqrt(self.actions)  # the 1 % point of Kolmogorov's distribution
        return self.distance <= max(MAX_DISTANCE, noise)

    @property
    def ever_act(self) -> float:
        """The share of impressions that ever act (1 - the cure fraction)."""
        return min(1.0, float(self._km.acted[-1]) / self.within_reach)

    def _acted(self, waits: Floats) -> Floats:
        """The Kaplan-Meier curve."""
        steps = np.concatenate([[0.0], self._km.acted])
        return np.asarray(steps[self._km.at(waits) + 1], dtype=np.float64)

    # -- completeness ------------------------------------------------------------------------------

    def completeness(self, waits: Floats) -> Band:
        """At each wait (ms, > 0), with an interval. Only for a kind that has an advice."""
        value = self.share(waits)
        bands = [self._band(fit, waits) for fit in self.plausible] if self.by_family else []
        bands.append(self._band_of_remainder(waits))
        return Band(
            value,
            np.min([value, *(band.low for band in bands)], axis=0),
            # completeness cannot be above this, whatever comes beyond the reach
            np.max([value, self.at_most(waits), *(band.high for band in bands)], axis=0),
        )

    def share(self, waits: Floats) -> Floats:
        """The estimate alone, without its interval: at each wait (ms, > 0)."""
        if self.by_family or not self.remainder.bounded:
            return self._value(self.best, waits)
        beyond = self.remainder.complete(np.maximum(waits, self.reach))
        return np.where(waits <= self.reach, self._seen_share(waits) * self.within_reach, beyond)

    def at_most(self, waits: Floats) -> Floats:
        """The upper confidence limit of completeness at each wait (ms, > 0), without a family.

        It is the limit for the share of the actions within the reach; more may come beyond.
        """
        _, high = self._seen_interval(waits)
        return high

    def at_least(self, target: float) -> float:
        """The lower confidence limit (ms) of the window for a completeness, without a family."""
        waits = np.geomspace(self._delays.min(), self.reach, 2_000)
        return _first_above(waits, self.at_most(waits), target)

    @property
    def act_at_least(self) -> float:
        """The lower confidence limit of the share of impressions that ever act."""
        idle = (1 - self._km.acted[-1]) * math.exp(self._z * math.sqrt(self._km.greenwood[-1]))
        return max(0.0, 1 - float(idle))

    def _seen_share(self, waits: Floats) -> Floats:
        shape = self._acted(np.minimum(waits, self.reach)) / self._km.acted[-1]
        return np.asarray(shape, dtype=np.float64)

    def _seen_interval(self, waits: Floats) -> tuple[Floats, Floats]:
        """The interval of the share of the actions within the reach that came within each wait."""
        value = self._seen_share(waits)
        low, high = self._logit_interval(value, self._variance_of_ratio(waits))
        # no action up to a wait: the exact limit of a binomial
        few = 1 - (1 - special.ndtr(self._z)) ** (1 / self.actions)
        return low, np.where(waits < self.reach, np.maximum(high, few), 1.0)

    def _band_of_remainder(self, waits: Floats) -> Band:
        low, high = self._seen_interval(waits)
        beyond = self.remainder.complete_at_least(np.maximum(waits, self.reach))
        return Band(self.share(waits), np.where(waits < self.reach, low * beyond, beyond), high)

    def _logit_interval(self, value: Floats, variance: Floats) -> tuple[Floats, Floats]:
        """The interval of shares, given the variance of their logarithms."""
        # closer to 1 the logit would amplify the rounding error of the variance
        sure = np.clip(value, 1e-6, 1 - 1e-6)
        error = self._z * np.sqrt(np.maximum(variance, 0.0)) / (1 - sure)
        logit = special.logit(sure)
        low, high = special.expit(logit - error), special.expit(logit + error)
        nothing = value <= 0
        return np.where(nothing, 0.0, low), np.where(nothing, 0.0, high)

    def seen_quantile(self, share: float) -> float:
        """The quantile of the observed delays (ms), as if no others came: the naive answer."""
        return float(np.quantile(self._seen, share))

    def share_of_seen(self, waits: Floats) -> Floats:
        """The share of the observed delays up to each wait: the naive curve."""
        return np.asarray(
            np.searchsorted(self._seen, waits, side="right") / len(self._seen), dtype=np.float64
        )

    def _band(self, fit: Fit, waits: Floats) -> Band:
        value = self._value(fit, waits)
        beyond = fit.gradient(np.maximum(waits, self.reach))
        variance = np.where(
            waits <= self.reach,
            self._variance_inside(fit, np.minimum(waits, self.reach)),
            np.einsum("wi,ij,wj->w", beyond, fit.covariance, beyond),
        )
        return Band(value, *self._logit_interval(value, variance))

    def _value(self, fit: Fit, waits: Floats) -> Floats:
        scale = float(fit.acted(np.array([self.reach]))[0])
        beyond = fit.acted(np.maximum(waits, self.reach))
        return np.where(waits <= self.reach, self._seen_share(waits) * scale, beyond)

    def _variance_inside(self, fit: Fit, waits: Floats) -> Floats:
        """The variance of log(K(w) / K(t) * F(t)).

        It is Greenwood's for the ratio, plus the family's, plus twice their covariance. The
        covariance comes from the influence that each action has on both.
        """
        km = self._km
        at = km.at(waits)
        acted = np.where(at >= 0, km.acted[at], 1.0)  # where nothing has acted no band is drawn
        scale = fit.scores @ fit.inverse @ fit.gradient(np.array([self.reach]))[0]
        shared = self._shared_influence(scale)
        at_w = np.where(at >= 0, shared[at], 0.0) / acted
        covariance = at_w - shared[-1] / km.acted[-1]
        variance = self._variance_of_ratio(waits) + scale @ scale + 2 * covariance
        return np.asarray(variance, dtype=np.float64)

    def _variance_of_ratio(self, waits: Floats) -> Floats:
        """The variance of log(K(w) / K(t)), from Greenwood's."""
        km = self._km
        at = km.at(np.minimum(waits, self.reach))
        a, b = np.where(at >= 0, km.acted[at], 1.0), km.acted[-1]
        greenwood = np.where(at >= 0, km.greenwood[at], 0.0)
        ratio = (
            ((1 - a) / a) ** 2 * greenwood
            + ((1 - b) / b) ** 2 * km.greenwood[-1]
            - 2 * (1 - a) * (1 - b) / (a * b) * greenwood
        )
        return np.asarray(ratio, dtype=np.float64)

    def _shared_influence(self, other: Floats) -> Floats:
        """At each step the sum, over the actions, of their influence on K times `other` (n,).

        An action at d moves K(w) by (1 - K(w)) (1{d <= w} / Y(d) - L(min(d, w))), with Y the number
        at risk and L the sum of events / Y^2 up to a time (Reid, "Influence functions for censored
        data", Annals of Statistics 1981).
        """
        km = self._km
        step = np.searchsorted(km.times, self._raw_delays)
        by_step = np.bincount(step, other, minlength=len(km.times))
        hazard = np.cumsum(km.events / km.at_risk**2)
        upto = np.cumsum(by_step / km.at_risk) - np.cumsum(by_step * hazard)
        after = hazard * (by_step.sum() - np.cumsum(by_step))
        return np.asarray((1 - km.acted) * (upto - after), dtype=np.float64)

    # -- windows -----------------------------------------------------------------------------------

    def window(self, target: float) -> Advice:
        """The shortest window whose completeness is at least `target` (0 < target < 1)."""
        why = self._no_tail()
        if not why:
            value = self.wait(target)
            waits = np.geomspace(self._delays.min(), self.reach * LOOK_AHEAD, 2_000)
            band = self.completeness(waits)
            # the earliest waits at which the upper and the lower end of the band reach the target
            low = min(value, _first_above(waits, band.high, target))
            high = max(value, _first_above(waits, band.low, target))
            why = self._doubt(low, high)
        if why:
            return Advice(target, math.nan, self.at_least(target), math.inf, "cannot tell", why)
        basis: Basis = "observed" if high <= self.reach else "extrapolated"
        return Advice(target, value, low, high, basis)

    def wait(self, share: float) -> float:
        """The shortest wait (ms) at which the estimate of completeness is at least `share`."""
        if share > self.within_reach:
            if self.by_family or not self.remainder.bounded:
                return self.best.wait(share)
            waits = np.geomspace(self.reach, self.reach * LOOK_AHEAD, 2_000)
            return _first_above(waits, self.share(waits), share)
        needed = share / self.within_reach * self._km.acted[-1]
        at = int(np.searchsorted(self._km.acted, needed * (1 - 1e-12)))
        return float(max(self._km.times[min(at, len(self._km.times) - 1)], self._delays.min()))

    def _no_tail(self) -> str:
        """Why nothing can be said about actions beyond the reach; empty if something can."""
        if not self.remainder.bounded:
            return "the delays do not become rarer within the time that was followed"
        if self._contradicted:
            return (
                f"{self.beyond:,} actions came after the late horizon, more than the delays within"
                f" it ({self.actions:,}) make likely"
            )
        return ""

    @property
    def _contradicted(self) -> bool:
        """Whether more actions came beyond the horizon than the interval at the horizon allows.

        Both counts are of all requests, and fewer of them were followed beyond the horizon than
        within it, so the share of actions beyond it is not overstated.
        """
        if not self.beyond:
            return False
        level = float(special.ndtr(self._z))
        within = float(stats.beta.ppf(level, self.actions + 1, self.beyond))
        return bool(self.completeness(np.array([self.horizon])).low[0] > within)

    def _doubt(self, low: float, high: float) -> str:
        if high > low * MAX_SPREAD:
            return f"the interval would be wider than a factor of {MAX_SPREAD:g}"
        return ""


def _first_above(waits: Floats, curve: Floats, level: float) -> float:
    """Where a curve that should not fall first reaches a level, interpolated; infinite if never."""
    curve = np.maximum.accumulate(curve)
    if curve[-1] < level:
        return float("inf")
    at = int(np.argmax(curve >= level))
    if at == 0:
        return float(waits[0])
    share = (level - curve[at - 1]) / (curve[at] - curve[at - 1])
    return float(np.exp(np.log(waits[at - 1]) * (1 - share) + np.log(waits[at]) * share))
