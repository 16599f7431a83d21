"""The tables of docs/how-long-to-wait.md, from the results alone. Means and 95 % intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev

from examples.closed_loop.headless.referee import AGES, BEFORE_H, hours_until_well
from examples.closed_loop.sweep.cells import POLICIES, WINDOWS, Cell
from examples.closed_loop.sweep.results import Measured

#: Quantiles 0.975 of Student's t, by degrees of freedom; beyond them the last.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)

Results = Mapping[Cell, Sequence[Measured]]


def by_cell(measured: Sequence[Measured]) -> Results:
    """The runs of each cell by seed, of the seeds that all windows and policies have."""
    found: dict[Cell, dict[int, Measured]] = defaultdict(dict)
    for each in measured:
        found[each.cell][each.seed] = each
    main = [Cell(window, policy) for window in WINDOWS for policy in POLICIES]
    whole = set.intersection(*(set(found[cell]) for cell in main))
    return {
        cell: [runs[seed] for seed in sorted(runs) if seed in whole]
        for cell, runs in found.items()
        if whole & set(runs)
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval by Student's t (0 for one value)."""
    n = len(values)
    if n < 2:
        return fmean(values), 0.0
    return fmean(values), _T[min(n - 2, len(_T) - 1)] * stdev(values) / sqrt(n)


def regret_of(run: Measured) -> float:
    """Of the learning arm, after the first day."""
    return run.regret["learning"]


def main_table(results: Results) -> str:
    """All windows and policies."""
    head = (
        "| window | policy | CTR | regret | new interest, first 12 h | well after"
        " | new items | old items | complete | calibration | rows |"
    )
    lines = [head, "| -- | -- " + "| -: " * 9 + "|"]
    for window in WINDOWS:
        for policy in POLICIES:
            runs = results[Cell(window, policy)]
            mean, half = interval([regret_of(r) for r in runs])
            clicks = [sum(h) for h in zip(*(_padded(r.new_clicks) for r in runs), strict=True)]
            best = [sum(h) for h in zip(*(_padded(r.new_best) for r in runs), strict=True)]
            there = [sum(a) for a in zip(*(r.there for r in runs), strict=True)]
            hits = [sum(a) for a in zip(*(r.hits for r in runs), strict=True)]
            hours, old = hours_until_well(clicks, best), AGES.index(24) + 1
            never = len(clicks) - BEFORE_H
            lines.append(
                f"| {window} | `{policy}` | {_mean(runs, lambda r: r.ctr['learning']):.4f}"
                f" | {mean:.1%} ± {half:.1%} | {_mean(runs, lambda r: r.new_interest_lost):.1%}"
                f" | {'not' if hours >= never else f'{hours:.0f} h'}"
                f" | {sum(hits[:3]) / sum(there[:3]):.0%}"
                f" | {sum(hits[old:]) / sum(there[old:]):.0%}"
                f" | {_mean(runs, lambda r: r.completeness):.1%}"
                f" | {_mean(runs, lambda r: r.calibration):.2f}"
                f" | {_mean(runs, lambda r: float(r.rows)):,.0f} |"
            )
    return "\n".join(lines)


def _padded(hours: Sequence[float]) -> list[float]:
    """To one length: the last request of a run may be an hour early."""
    return [*hours, *[0.0] * 48][: BEFORE_H + 36]


def _mean(runs: Sequence[Measured], of: Callable[[Measured], float]) -> float:
    return fmean(of(run) for run in runs)


def difference(results: Results, one: Cell, other: Cell) -> tuple[float, float, int]:
    """Regret of the first minus that of the second, paired by seed: mean, half width, seeds."""
    first = {run.seed: regret_of(run) for run in results.get(one, ())}
    second = {run.seed: regret_of(run) for run in results.get(other, ())}
    both = sorted(first.keys() & second.keys())
    if not both:
        return 0.0, 0.0, 0
    return *interval([first[s] - second[s] for s in both]), len(both)


def differences_table(results: Results, pairs: Sequence[tuple[str, Cell, Cell]]) -> str:
    """For each pair of at least two seeds, by name: how much more the first loses."""
    lines = ["| compared | difference of regret | seeds |", "| -- | -: | -: |"]
    for name, one, other in pairs:
        mean, half, seeds = difference(results, one, other)
        if seeds > 1:
            lines.append(f"| {name} | {100 * mean:+.1f} ± {100 * half:.1f} points | {seeds} |")
    return "\n".join(lines)


#: What the text of the page relies on.
PAIRS: tuple[tuple[str, Cell, Cell], ...] = (
    ("`wait`: 5min against 1h", Cell("5min", "wait"), Cell("1h", "wait")),
    ("`wait`: 6h against 1h", Cell("6h", "wait"), Cell("1h", "wait")),
    ("`wait`: 1d against 1h", Cell("1d", "wait"), Cell("1h", "wait")),
    ("`defer` 6h against `wait` 1h", Cell("6h", "defer"), Cell("1h", "wait")),
    ("`es_dfm` 6h against `wait` 1h", Cell("6h", "es_dfm"), Cell("1h", "wait")),
    ("`fake_negative` 6h against `wait` 1h", Cell("6h", "fake_negative"), Cell("1h", "wait")),
    *(
        (f"{w}: `{p}` against `wait`", Cell(w, p), Cell(w, "wait"))
        for w in WINDOWS
        for p in POLICIES[1:]
    ),
    ("6h: `es_dfm` against `fake_negative`", Cell("6h", "es_dfm"), Cell("6h", "fake_negative")),
    ("6h: `defer` against `fake_negative`", Cell("6h", "defer"), Cell("6h", "fake_negative")),
    ("6h: `defer` against `es_dfm`", Cell("6h", "defer"), Cell("6h", "es_dfm")),
    ("`defer`: 1d against 6h", Cell("1d", "defer"), Cell("6h", "defer")),
    ("`es_dfm`: 1d against 6h", Cell("1d", "es_dfm"), Cell("6h", "es_dfm")),
    *(
        (f"1h, `{p}`: exposure off against on", Cell("1h", p, exposure=False), Cell("1h", p))
        for p in POLICIES
    ),
    *(
        (f"1h, `{p}`: sampling 0.2 against 1", Cell("1h", p, sampling=0.2), Cell("1h", p))
        for p in POLICIES
    ),
)


def arms_text(results: Results) -> str:
    """Learning, frozen, random: CTR and the paired differences."""
    runs = results.get(Cell("1h", "wait", arms=True), ())
    if not runs:
        return ""
    lines = ["| arm | CTR | regret |", "| -- | -: | -: |"]
    for arm in ("learning", "frozen", "random"):
        ctr, ctr_half = interval([run.ctr[arm] for run in runs])
        regret, half = interval([run.regret[arm] for run in runs])
        lines.append(f"| {arm} | {ctr:.4f} ± {ctr_half:.4f} | {regret:.1%} ± {half:.1%} |")
    mean, half = interval([run.regret["frozen"] - run.regret["learning"] for run in runs])
    said = f"Frozen loses {100 * mean:.1f} ± {100 * half:.1f} points more than learning"
    return "\n".join(lines) + f"\n\n{said} ({len(runs)} seeds, paired).\n"


def whole(measured: Sequence[Measured]) -> str:
    """All tables, for the page."""
    results = by_cell(measured)
    seeds = len(results[Cell("1h", "wait")])
    tables = (main_table(results), differences_table(results, PAIRS), arms_text(results))
    return f"{seeds} seeds.\n\n" + "\n\n".join(tables)
