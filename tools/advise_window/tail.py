"""What delays look like beyond the reach of the data: parametric families, fitted where data are.

An impression that acts does so after a delay with distribution F; others never act (a mixture cure
model, as Chapelle's for conversions, "Modeling delayed feedback in display advertising", KDD 2014,
there with exponential delays). Given that it acted within its follow-up c, the density of its delay
is f(d) / F(c): right truncation. In this conditional likelihood the share that ever acts drops out,
so it may vary in time. All families have one form: (log d - m) / s has a standard distribution.
That is the normal for log-normal delays, the logistic for log-logistic ones, and the log of an
exponential (Gumbel's for minima) for Weibull and, with s = 1, exponential ones. The log-logistic
has a tail like a power of the delay; without it heavy tails would look lighter than they are. The
family with the least AIC is the best (Akaike 1974). Families close to it are as plausible (Burnham
& Anderson, "Model Selection and Multimodel Inference", 2002, 2.6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, stats

from tools.advise_window.observations import Floats, KindObservations


@dataclass(frozen=True)
class Family:
    """`base`: the distribution of (log delay - m) / s. `free`: how many of (m, log s) it has."""

    name: str
    base: Any
    free: int

    def slope(self, y: Floats) -> Floats:
        """d log density / dy."""
        if self.base is stats.norm:
            return -y
        if self.base is stats.logistic:
            return np.asarray(-np.tanh(y / 2), dtype=np.float64)
        # beyond 700 the exponential overflows; the density has long been 0 there
        return np.asarray(1.0 - np.exp(np.minimum(y, 700.0)), dtype=np.float64)

    def reversed_hazard(self, y: Floats) -> Floats:
        """Density over distribution function."""
        ratio = np.exp(self.base.logpdf(y) - self.base.logcdf(y))
        return np.asarray(ratio, dtype=np.float64)


FAMILIES = (
    Family("log-normal", stats.norm, 2),
    Family("log-logistic", stats.logistic, 2),
    Family("Weibull", stats.gumbel_l, 2),
    Family("exponential", stats.gumbel_l, 1),
)


@dataclass(frozen=True)
class Fit:
    """One family, fitted. `theta` is (m, log s) with m the log of ms.

    `scores` (n, free): of each delay. `inverse` (free, free): of the observed information. A fit
    that is `loose` ran to a bound of the parameters: the data do not say where the delays end.
    """

    family: Family
    theta: Floats
    aic: float
    scores: Floats
    inverse: Floats
    loose: bool

    def acted(self, waits: Floats) -> Floats:
        """F at each wait (ms), of those that ever act."""
        return np.asarray(self.family.base.cdf(self._standard(waits)), dtype=np.float64)

    def wait(self, share: float) -> float:
        """The wait (ms) after which this share of those that ever act has acted."""
        y = float(self.family.base.ppf(share))
        return float(np.exp(self.theta[0] + np.exp(self.theta[1]) * y))

    def gradient(self, waits: Floats) -> Floats:
        """d log F / d theta at each wait: (waits, free)."""
        y = self._standard(waits)
        r = self.family.reversed_hazard(y)
        columns = np.stack([-r / np.exp(self.theta[1]), -y * r], axis=-1)
        return np.asarray(columns[..., : self.family.free], dtype=np.float64)

    @property
    def covariance(self) -> Floats:
        """Of the parameters, also where the family is not the true one (White 1982)."""
        meat = self.scores.T @ self.scores
        return np.asarray(self.inverse @ meat @ self.inverse, dtype=np.float64)

    def _standard(self, waits: Floats) -> Floats:
        return np.asarray((np.log(waits) - self.theta[0]) / np.exp(self.theta[1]), dtype=np.float64)


def fit_all(observations: KindObservations) -> list[Fit]:
    """Every family, the best first. Needs two distinct delays at least."""
    delays, follow = clear_of_zero(observations)
    fits = [_fit(family, np.log(delays), np.log(follow)) for family in FAMILIES]
    return sorted((fit for fit in fits if fit is not None), key=lambda fit: fit.aic)


def clear_of_zero(observations: KindObservations) -> tuple[Floats, Floats]:
    """Delays and follow-up (n,) with zeros, and what the skew made negative, at half a unit.

    A unit is what the delays are multiples of: the logs may know seconds only.
    """
    unit = max(1.0, float(np.gcd.reduce(observations.delays.astype(np.int64))))
    return np.maximum(observations.delays, unit / 2), np.maximum(observations.follow, unit / 2)


def _fit(family: Family, u: Floats, v: Floats) -> Fit | None:
    """Maximum likelihood of log delays `u` truncated at `v`; None where it cannot be found."""
    low, high = float(u.min()), float(v.max())
    # a median beyond 150 times the reach, or a spread of e^8 at one sigma, is no finding
    bounds = [(low - 5.0, high + 5.0), (np.log(0.05), np.log(8.0))][: family.free]
    start = np.array([u.mean(), np.log(max(u.std(), 0.05))])[: family.free]

    def whole(theta: Floats) -> Floats:
        return np.append(theta, np.zeros(2 - len(theta)))

    def loss(theta: Floats) -> tuple[float, Floats]:
        m, log_s = whole(theta)
        y, yc = (u - m) / np.exp(log_s), (v - m) / np.exp(log_s)
        likelihood = family.base.logpdf(y) - log_s - family.base.logcdf(yc)
        scores = _scores(family, y, yc, log_s)
        return -float(likelihood.mean()), -scores.mean(axis=0)

    found = optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-13}
    )
    theta = np.asarray(found.x, dtype=np.float64)
    edge = np.array(bounds)
    loose = bool((np.abs(theta[:, None] - edge) < 1e-3).any())
    m, log_s = whole(theta)
    scores = _scores(family, (u - m) / np.exp(log_s), (v - m) / np.exp(log_s), log_s)
    step = 1e-5
    information = len(u) * np.stack(
        [(loss(theta + e)[1] - loss(theta - e)[1]) / (2 * step) for e in step * np.eye(family.free)]
    )
    try:
        np.linalg.cholesky(information)
    except np.linalg.LinAlgError:
        loose = True
    if not np.isfinite(found.fun):
        return None
    return Fit(
        family=family,
        theta=whole(theta),
        aic=2 * family.free + 2 * len(u) * float(found.fun),
        scores=scores,
        inverse=np.linalg.pinv(information),
        loose=loose,
    )


def _scores(family: Family, y: Floats, yc: Floats, log_s: float) -> Floats:
    """The gradient of each log likelihood in (m, log s), (n, free)."""
    g, r = family.slope(y), family.reversed_hazard(yc)
    columns = np.stack([(r - g) / np.exp(log_s), yc * r - y * g - 1.0], axis=1)
    return np.asarray(columns[:, : family.free], dtype=np.float64)
