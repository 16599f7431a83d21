"""What a wait costs, and what each emission policy costs: wrong negatives, age, and rows.

The policies are those of docs/emission-policies.md. The age of a row is the event time from its
request to the moment at which the watermark allows the row, in ms. The clock skew S and the
sources' out-of-orderness B delay every row. The allowed lateness L delays the final row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.pipeline.config import Pipeline
from tools.advise_window.delays import DelayEstimate
from tools.advise_window.observations import Floats

#: Waits as a person would write them, from a second to a month.
_S, _MIN, _H, _D = 1_000.0, 60_000.0, 3_600_000.0, 86_400_000.0
NICE_WAITS = (
    *(n * _S for n in (1, 2, 5, 10, 20, 30)),
    *(n * _MIN for n in (1, 2, 5, 10, 20, 30)),
    *(n * _H for n in (1, 2, 3, 6, 12)),
    *(n * _D for n in (1, 2, 3, 7, 14, 30)),
)


@dataclass(frozen=True)
class Overheads:
    """What is added to a wait, in ms: S + B for any row, S + L + B for the final row."""

    any_row: float
    final_row: float

    @classmethod
    def of(cls, pipeline: Pipeline) -> Overheads:
        """The overheads of a pipeline, from its bounds."""
        # the watermark of the join is that of the slowest source
        disorder = max(int(named.source.out_of_orderness) for named in pipeline.sources.each)
        skew = pipeline.rules.skew + disorder
        return cls(float(skew), float(skew + pipeline.rules.lateness))


@dataclass(frozen=True)
class Waiting:
    """The cost of one wait for one kind.

    `missed`: of the impressions that ever act, the share that has not acted yet; these become
    negatives. `of_negatives`: their share of all negatives. `age_ms`: the age of the sample.
    """

    wait_ms: float
    complete: float
    low: float
    high: float
    missed: float
    of_negatives: float
    age_ms: float
    observed: bool


def waiting(estimate: DelayEstimate, waits: Floats, overheads: Overheads) -> list[Waiting]:
    """One result per wait (ms)."""
    band = estimate.completeness(waits)
    p = estimate.ever_act
    return [
        Waiting(
            wait_ms=float(wait),
            complete=float(value),
            low=float(low),
            high=float(high),
            missed=float(1 - value),
            of_negatives=float(p * (1 - value) / max(1 - p * value, 1e-12)),
            age_ms=float(wait + overheads.final_row),
            observed=bool(wait <= estimate.reach),
        )
        for wait, value, low, high in zip(waits, band.value, band.low, band.high, strict=True)
    ]


def grid(estimate: DelayEstimate, windows: Sequence[float]) -> Floats:
    """Round waits over the range in which completeness changes, and `windows`; ascending, ms."""
    around = [estimate.wait(0.1), *windows]
    nice = [w for w in NICE_WAITS if min(around) / 2 <= w <= 3 * max(around)]
    return np.array(sorted({*nice, *windows}), dtype=np.float64)


@dataclass(frozen=True)
class PolicyCost:
    """The cost of one policy, over all kinds.

    `rows`: per sample, counting each kind's first action. `first_age_ms`: the age of the first row.
    `right_median_ms`, `right_mean_ms`: the age of a sample when it becomes positive, for those that
    ever do. `fake`: of the actions that ever come, the share that the first row calls negative.
    `lost`: the share that the last row still calls negative.
    """

    name: str
    rows: float
    first_age_ms: float
    right_median_ms: float
    right_mean_ms: float
    fake: float
    lost: float


def policies(
    estimates: Sequence[DelayEstimate],
    windows: Mapping[str, float],
    overheads: Overheads,
    first_emit_after: Sequence[float],
) -> list[PolicyCost]:
    """Every policy with these windows (ms, by kind), for each d (ms) of `first_emit_after`."""
    pooled = _Pooled(estimates, windows)
    longest = max(windows.values())
    final = longest + overheads.final_row
    lost = pooled.missed(longest)
    costs = [PolicyCost("wait", 1.0, final, final, final, lost, lost)]
    firsts = [("fake_negative", 1, 0.0)]
    firsts += [("es_dfm", 1, d) for d in first_emit_after]
    firsts += [("defer", 2, d) for d in first_emit_after]
    for name, rows, d in firsts:
        median, mean = pooled.age_of_positives(d)
        costs.append(
            PolicyCost(
                name=name if not d else f"{name}({_text(d)})",
                rows=rows + pooled.changes_after(d),
                first_age_ms=d + overheads.any_row,
                right_median_ms=median + overheads.any_row,
                right_mean_ms=mean + overheads.any_row,
                fake=pooled.missed(d),
                lost=lost,
            )
        )
    return costs


def first_waits(
    estimates: Sequence[DelayEstimate], windows: Mapping[str, float], configured: float | None
) -> list[float]:
    """Useful values of d: round ones between a fifth and 95 % of all labels, at most four."""
    pooled, longest = _Pooled(estimates, windows), max(windows.values())
    nice = [d for d in NICE_WAITS if d < longest and 0.05 < pooled.missed(d) < 0.8]
    chosen = {nice[i] for i in np.linspace(0, len(nice) - 1, 3).astype(int)} if nice else set()
    if configured:
        chosen.add(configured)
    return sorted(d for d in chosen if d < longest)


class _Pooled:
    """The first actions of all kinds together, per sample."""

    def __init__(self, estimates: Sequence[DelayEstimate], windows: Mapping[str, float]) -> None:
        self._parts = [(e, e.ever_act, windows[e.kind]) for e in estimates]
        self._all = sum(p for _, p, _ in self._parts)

    def _labelled(self, waits: Floats) -> Floats:
        """How many labels a sample has after each wait; each kind counts up to its own window."""
        return np.asarray(
            sum(p * e.share(np.minimum(waits, w)) for e, p, w in self._parts),
            dtype=np.float64,
        )

    def missed(self, wait: float) -> float:
        at = self._labelled(np.array([max(wait, 1e-3)]))[0]
        return float(1 - at / self._all)

    def changes_after(self, wait: float) -> float:
        ends = self._labelled(np.array([max(wait, 1e-3), max(w for *_, w in self._parts)]))
        return float(ends[1] - ends[0])

    def age_of_positives(self, first: float) -> tuple[float, float]:
        """Median and mean of max(delay, first) over the labels within their windows, ms."""
        longest = max(w for *_, w in self._parts)
        waits = np.geomspace(1.0, longest, 4_000)
        labelled = self._labelled(waits)
        share = labelled / labelled[-1]
        median = float(waits[np.argmax(share >= 0.5)])
        ages = np.maximum(waits, first)
        return max(median, first), float(ages @ np.diff(share, prepend=0.0))


def _text(ms: float) -> str:
    for unit, size in (("d", _D), ("h", _H), ("min", _MIN), ("s", _S)):
        if ms >= size and ms % size == 0:
            return f"{ms / size:.0f}{unit}"
    return f"{ms:.0f}ms"
