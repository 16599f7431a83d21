"""The answers for one pipeline: a window per kind, one for all, and the cost of each wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jobs.pipeline.config import Pipeline
from tools.advise_window.cost import (
    Overheads,
    PolicyCost,
    Waiting,
    first_waits,
    grid,
    policies,
    waiting,
)
from tools.advise_window.delays import Advice, AllAlikeError, DelayEstimate, NoEstimateError
from tools.advise_window.observations import Observed
from tools.summary.show import readable_ms


@dataclass(frozen=True)
class KindAnswer:
    """One kind: its delays, the window for the target, and what is configured now.

    `now`: the cost of the configured window. `waits`: the costs of other waits, with both windows
    among them, ascending. `naive_ms`: the target's quantile of the observed delays. A kind without
    advice has none of these. `has_at_most`: the upper limit of the configured window's
    completeness.
    """

    estimate: DelayEstimate
    advice: Advice
    has_at_most: float
    naive_ms: float | None
    now: Waiting | None
    waits: tuple[Waiting, ...]

    @property
    def kind(self) -> str:
        """The kind of action that it is about."""
        return self.estimate.kind


@dataclass(frozen=True)
class Answers:
    """All that is shown.

    `refused`: by kind, why nothing can be said. `longest`: the advice for the pipeline, which is
    that of the kind `longest_kind`; None if a kind that matters has no advice. `costs`: with the
    advised windows, or the configured one where there is no advice. `costs_now`: with the
    configured windows. Both leave out an exposure kind, which labels nothing, and the kinds in
    `not_in_costs`, for which the data do not suffice.
    """

    target: float
    observed: Observed
    overheads: Overheads
    kinds: tuple[KindAnswer, ...]
    refused: Mapping[str, str]
    longest: Advice | None
    longest_kind: str | None
    configured_ms: float
    costs: tuple[PolicyCost, ...]
    costs_now: tuple[PolicyCost, ...]
    not_in_costs: tuple[str, ...]
    next_steps: tuple[str, ...]


def answer(pipeline: Pipeline, observed: Observed, target: float) -> Answers:
    """All answers, from what was read. `target`: a completeness between 0 and 1."""
    overheads = Overheads.of(pipeline)
    kinds: list[KindAnswer] = []
    refused: dict[str, str] = {}
    few: list[str] = []
    for observations in observed.kinds:
        try:
            estimate = DelayEstimate(observations)
        except NoEstimateError as error:
            refused[observations.kind] = str(error)
            # an action that comes at once is within any window
            if not isinstance(error, AllAlikeError):
                few.append(observations.kind)
            continue
        kinds.append(_kind_answer(estimate, target, overheads))
    answered = [k for k in kinds if k.advice.told]
    longest = max(answered, key=lambda k: k.advice.window_ms, default=None)
    if few or len(answered) < len(kinds):
        longest = None
    configured = {k.name: float(k.window_ms) for k in pipeline.kinds}
    windows = configured | {k.kind: k.advice.window_ms for k in answered}
    exposure = pipeline.rules.exposure
    labels = [k.estimate for k in answered if k.kind != exposure]
    of_labels = {name: at for name, at in windows.items() if name != exposure}
    now = {name: configured[name] for name in of_labels}
    costs: list[PolicyCost] = []
    costs_now: list[PolicyCost] = []
    if labels:
        own = pipeline.rules.first_emit_after
        firsts = first_waits(labels, now, None if own is None else float(own))
        costs_now = policies(labels, now, overheads, firsts)
        costs = policies(
            labels, of_labels, overheads, [d for d in firsts if d < max(of_labels.values())]
        )
    return Answers(
        target=target,
        observed=observed,
        overheads=overheads,
        kinds=tuple(kinds),
        refused=refused,
        longest=None if longest is None else longest.advice,
        longest_kind=None if longest is None else longest.kind,
        configured_ms=max(configured.values()),
        costs=tuple(costs),
        costs_now=tuple(costs_now),
        not_in_costs=tuple(
            k.name for k in pipeline.kinds if k.name not in {e.kind for e in labels} | {exposure}
        ),
        next_steps=tuple(_next_steps(pipeline, kinds, few, observed)),
    )


def _kind_answer(estimate: DelayEstimate, target: float, overheads: Overheads) -> KindAnswer:
    advice = estimate.window(target)
    configured = float(estimate.configured_ms)
    has_at_most = float(estimate.at_most(np.array([configured]))[0])
    if not advice.told:
        return KindAnswer(estimate, advice, has_at_most, None, None, ())
    waits = waiting(estimate, grid(estimate, [configured, advice.window_ms]), overheads)
    return KindAnswer(
        estimate=estimate,
        advice=advice,
        has_at_most=has_at_most,
        naive_ms=estimate.seen_quantile(target),
        now=next(w for w in waits if w.wait_ms == configured),
        waits=tuple(waits),
    )


def _next_steps(
    pipeline: Pipeline,
    kinds: list[KindAnswer],
    few: list[str],
    observed: Observed,
) -> list[str]:
    """What a person can do if the data do not suffice."""
    unsure = [k for k in kinds if not k.advice.told]
    steps = []
    horizon = pipeline.rules.late_horizon
    if any(k.estimate.reach >= horizon for k in unsure) and observed.followed_to_horizon:
        steps.append(
            "Follow longer: raise join.late_horizon (now "
            f"{readable_ms(horizon)}) and join again, or read the event files with --from events."
        )
    elif unsure:
        steps.append("Give more hours of logs: no request was followed for longer than they last.")
    if few:
        steps.append("Give more data for the kinds that were hardly seen: " + ", ".join(few) + ".")
    return steps


def config_duration(ms: float) -> str:
    """The duration in two digits, rounded up, as a configuration writes it.

    For example "42s", "4h", "230min".
    """
    units = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1))
    # in the largest unit that gives ten or more, so that rounding up adds a tenth at most
    size = next((size for _, size in units if ms >= 10 * size), 1)
    rounded = _two_digits_up(ms / size) * size
    unit, size = next((unit, size) for unit, size in units if rounded % size == 0)
    return f"{rounded // size}{unit}"


def _two_digits_up(value: float) -> int:
    """The least number with two significant digits that is not below this one."""
    step = 1
    while value > 99 * step:
        step *= 10
    return int(-(-value // step) * step)
