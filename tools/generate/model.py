"""The model of the traffic: its parameters, and what a pipeline declares of it.

Times are in ms unless said otherwise. Everything follows from the seed; no clock is read.

* Request times are a Poisson process given its number: N uniform times over the hours.
* Users and items are drawn by Zipf-Mandelbrot popularity, p(k) ~ 1 / (k + 10). The items of a
  request are distinct; an item comes to a user again in later requests.
* A click needs examination and attraction (the position-based model; examination 1 / (k + 1)^eta at
  position k as in Joachims et al., "Unbiased learning-to-rank with biased feedback", WSDM 2017).
  Attraction is a logistic function of the first feature, so that there is something to learn.
* Other kinds happen to clicked impressions with a fixed probability, at most once each.
* Delays from the request are log-normal, and independent for each kind (also of the click), so that
  quantiles are analytic: `LogNormal.quantile`. Delayed feedback with a long tail is the setting of
  Chapelle, "Modeling delayed feedback in display advertising", KDD 2014, who has exponential
  delays; the log-normal is heavier, as dwell and purchase logs are.
* A record is received up to `disorder_ms` after its time (uniform); a `late_share` of them later
  by up to twice the longest window (log-uniform). A `duplicate_share` is received twice.
* A `bad_share` of extra records is made from good ones by `spoil_request` and `spoil_action`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: 2023-11-14 23:00 UTC: the start of an hour, so that partitions are whole.
START = 1_700_002_800_000
HOUR = 3_600_000


@dataclass(frozen=True)
class LogNormal:
    """A log-normal distribution by its median (seconds, or another unit) and its shape sigma."""

    median: float
    sigma: float

    def quantile(self, p: float) -> float:
        """The value that a share `p` of draws stays below, 0 < p < 1."""
        return self.median * math.exp(self.sigma * NormalDist().inv_cdf(p))

    def share_within(self, x: float) -> float:
        """The share of draws up to `x`."""
        return NormalDist().cdf(math.log(x / self.median) / self.sigma) if x > 0 else 0.0

    def draw(self, rng: np.random.Generator, n: int) -> Floats:
        """n values, float64 (n,)."""
        return rng.lognormal(math.log(self.median), self.sigma, n)


@dataclass(frozen=True)
class ActionModel:
    """A kind of action: how often, how late (seconds after the request), and with what value."""

    kind: str
    label: Literal["any", "count", "sum", "max", "last"]
    window: str
    window_ms: int
    delay: LogNormal
    #: given a click; the click itself has the position-based model
    probability: float | None = None
    value: LogNormal | None = None


ACTIONS = (
    ActionModel("click", "any", "2min", 120_000, LogNormal(8.0, 1.0)),
    ActionModel("dwell", "max", "10min", 600_000, LogNormal(40.0, 0.9), 0.8, LogNormal(25.0, 1.1)),
    ActionModel("like", "count", "15min", 900_000, LogNormal(60.0, 1.2), 0.1),
    ActionModel(
        "purchase", "sum", "3h", 3 * HOUR, LogNormal(2_700.0, 1.0), 0.05, LogNormal(20.0, 0.8)
    ),
)
LONGEST = max(action.window_ms for action in ACTIONS)


@dataclass(frozen=True)
class Traffic:
    """What to make. Shares are of good records; times are milliseconds."""

    requests: int
    items: int = 20
    features: int = 8
    seed: int = 0
    key: Literal["request_id", "user_id"] = "request_id"
    hours: float = 12.0
    users: int = 5_000
    catalogue: int = 10_000
    eta: float = 0.7
    attraction: tuple[float, float] = (-1.5, 1.0)  # logistic(a + b * first feature)
    missing_share: float = 0.02  # of feature values
    no_event_id_share: float = 0.05  # of actions
    disorder_ms: int = 2_000
    late_share: float = 0.002
    duplicate_share: float = 0.01
    bad_share: float = 0.002
    rotate_ms: int = 600_000

    def __post_init__(self) -> None:
        if self.requests < 1 or self.items < 1 or self.features < 1 or self.hours <= 0:
            raise ValueError("requests, items, features and hours must be positive")
        if self.catalogue < 2 * self.items:
            raise ValueError("the catalogue needs at least twice the items of a request")

    @property
    def end(self) -> int:
        """The end of both logs: actions after it are in the truth only."""
        return START + round(self.hours * HOUR)

    @property
    def max_record_bytes(self) -> int:
        """Well above a good request."""
        return max(65_536, 64 * self.items * (self.features + 2))


def feature_type(n: int) -> str:
    """The type of item feature number n, in turns, so that every width has a mixture."""
    turns = ("float64", "float64", "int64", "string", "float32", "int64", "bool", "list<string>")
    return turns[n % len(turns)]


def feature_name(n: int) -> str:
    """`f00` is the one that clicks depend on."""
    return f"f{n:02}"


def pipeline(traffic: Traffic) -> str:
    """The pipeline.toml of this traffic."""
    parts = [
        f'[pipeline]\nname = "generated-{traffic.seed}"',
        f'[join]\nkey = "{traffic.key}"\npolicy = "wait"',
        '[end_of_input]\nimmature = "mark"',
    ]
    parts += (
        f'[actions.{model.kind}]\nwindow = "{model.window}"\nlabel = "{model.label}"'
        for model in ACTIONS
    )
    parts.append('[features.hour]\nscope = "context"\ntype = "int64"')
    parts += (
        f'[features.{feature_name(n)}]\nscope = "item"\ntype = "{feature_type(n)}"\n'
        f"required = {'true' if n == 0 else 'false'}"
        for n in range(traffic.features)
    )
    parts += (
        f'[sources.{stream}]\ntype = "files"\npath = "{stream}"\n'
        f'out_of_orderness = "{traffic.disorder_ms}ms"\nnot_after = {traffic.end}\n'
        f"max_record_bytes = {traffic.max_record_bytes}"
        for stream in ("features", "actions")
    )
    parts.append('[output]\npath = "out"')
    return "\n\n".join(parts) + "\n"


def parameters(traffic: Traffic) -> dict[str, Any]:
    """Everything that a reader of the truth needs to compute expectations, JSON-able."""
    return {
        "traffic": asdict(traffic),
        "start": START,
        "end": traffic.end,
        "actions": [
            asdict(model) | {"share_within_window": model.delay.share_within(model.window_ms / 1e3)}
            for model in ACTIONS
        ],
    }
