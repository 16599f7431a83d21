"""The answers for a terminal, in at most `WIDTH` columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tools.advise_window.answers import Answers, KindAnswer, config_duration
from tools.advise_window.cost import PolicyCost
from tools.advise_window.delays import Advice
from tools.summary.show import readable_ms

#: The width of the tables, in columns of text.
WIDTH = 80

_BASIS_STYLE = {"observed": "", "extrapolated": "yellow", "cannot tell": "red"}


def print_answers(answers: Answers, console: Console) -> None:
    """Print the windows, a table of waits for each kind, the policies, and what to do next."""
    observed = answers.observed
    _line(console, "how long to wait for a label", style="bold")
    # the line is not folded, so that the path can be copied
    console.print(Text(f"  from {observed.origin}", style="dim"), soft_wrap=True)
    _line(console, f"  actions followed until {observed.until_text}", style="dim")
    for note in observed.notes:
        _line(console, f"  note: {note}", style="yellow")

    _heading(console, f"the shortest window that has {answers.target:.0%} of the labels")
    console.print(_windows(answers), crop=False)
    for kind in answers.kinds:
        if not kind.advice.told:
            _line(console, f"  {refusal(kind)}", style="red")
    for name, why in answers.refused.items():
        _line(console, f"  {name}: cannot tell: {why}", style="red")

    for kind in answers.kinds:
        if not kind.advice.told:
            continue
        _heading(console, f"{kind.kind}: what a wait gives, and costs")
        for line in (
            f"{kind.estimate.actions:,} actions seen; {kind.estimate.ever_act:.2%} of the"
            " impressions ever get one",
            f"naive answer, from the delays that were seen: {readable_ms(kind.naive_ms)}",
            about(kind),
        ):
            _line(console, f"  {line}", style="dim")
        console.print(_waits(kind), crop=False)
    if answers.costs:
        _heading(console, "emission policies, all labels together")
        for line in left_out(answers):
            _line(console, f"  {line}", style="yellow")
        for title, costs in (
            ("windows as they are now", answers.costs_now),
            (as_advised(answers), answers.costs),
        ):
            _line(console, f"  {title}:", style="dim")
            console.print(_policies(costs), crop=False)
    _next(console, answers)


def refusal(kind: KindAnswer) -> str:
    """Why there is no advice for a kind, and which limit is known."""
    estimate = kind.estimate
    return (
        f"{kind.kind}: cannot tell: {kind.advice.why}. {estimate.actions:,} actions were seen"
        f" within {readable_ms(estimate.reach)}; the window must be at least"
        f" {readable_ms(kind.advice.low)}"
    )


def left_out(answers: Answers) -> list[str]:
    """Which labels the costs of the policies do not count."""
    if not answers.not_in_costs:
        return []
    names = ", ".join(answers.not_in_costs)
    return [f"without the labels of {names}, which cannot be told"]


def has(kind: KindAnswer) -> str:
    """How complete the labels are within the configured window."""
    if kind.now is None:
        # rounded up, so that it stays an upper bound
        bound = math.ceil(kind.has_at_most * 1000) / 10
        return f"at most {bound:.1f}%" if bound < 100 else "-"
    return f"{kind.now.complete:.1%}"


def about(kind: KindAnswer) -> str:
    """One line: how far the data reach, and what the estimate beyond that rests on."""
    estimate = kind.estimate
    reach = readable_ms(estimate.reach)
    beyond = 1 - estimate.within_reach
    names = " or ".join(fit.family.name for fit in estimate.plausible)
    if not estimate.by_family:
        names = "without a family"
    if beyond < 0.0005:
        return f"observed up to {reach}; practically nothing comes later ({names})"
    return (
        f"observed up to {reach}; {beyond:.1%} of the labels come later, by extrapolation ({names})"
    )


def as_advised(answers: Answers) -> str:
    """Which windows the advice means: kinds without advice keep theirs."""
    stay = [k.kind for k in answers.kinds if not k.advice.told]
    return "windows as advised" + (f" ({', '.join(stay)} as now)" if stay else "")


def interval(advice: Advice) -> str:
    """For example `40 s to 42 s`; only one end where there is no advice."""
    if not advice.told:
        return f"at least {readable_ms(advice.low)}"
    return f"{readable_ms(advice.low)} to {readable_ms(advice.high)}"


def _windows(answers: Answers) -> Table:
    table = _table("action", "now", "has", "advised", "95 % interval", "")
    for k in answers.kinds:
        table.add_row(
            "",
            Text(k.kind),
            readable_ms(k.estimate.configured_ms),
            has(k),
            Text(readable_ms(k.advice.window_ms), style="bold") if k.advice.told else "-",
            interval(k.advice),
            Text(k.advice.basis, style=_BASIS_STYLE[k.advice.basis]),
        )
    for name in answers.refused:
        table.add_row("", Text(name), *("-",) * 4, Text("cannot tell", style="red"))
    longest = answers.longest
    table.add_row(
        "",
        Text("pipeline", style="bold"),
        readable_ms(answers.configured_ms),
        "",
        Text("-" if longest is None else readable_ms(longest.window_ms), style="bold"),
        "" if longest is None else interval(longest),
        "",
    )
    table.columns[-1].justify = "left"
    return table


def _waits(kind: KindAnswer) -> Table:
    table = _table("wait", "complete", "95 % interval", "of\nnegatives", "sample's\nage", "")
    for w in kind.waits:
        mark = "" if w.observed else "extrapolated"
        if w.wait_ms == kind.estimate.configured_ms:
            mark = "now"
        elif w.wait_ms == kind.advice.window_ms:
            mark = "advised"
        table.add_row(
            "",
            Text(readable_ms(w.wait_ms)),
            f"{w.complete:.1%}",
            f"{w.low:.1%} to {w.high:.1%}",
            f"{w.of_negatives:.3%}",
            readable_ms(w.age_ms),
            Text(mark, style="yellow" if mark == "extrapolated" else "bold"),
        )
    table.columns[-1].justify = "left"
    return table


def _policies(costs: Sequence[PolicyCost]) -> Table:
    table = _table(
        "policy",
        "rows per\nsample",
        "first row\nat",
        "positive at,\nmedian",
        "mean",
        "fake\nnegatives",
        "lost",
    )
    for cost in costs:
        table.add_row(
            "",
            Text(cost.name),
            f"{cost.rows:.3f}",
            readable_ms(cost.first_age_ms),
            readable_ms(cost.right_median_ms),
            readable_ms(cost.right_mean_ms),
            f"{cost.fake:.1%}",
            f"{cost.lost:.1%}",
        )
    return table


def _next(console: Console, answers: Answers) -> None:
    told = [k for k in answers.kinds if k.advice.told]
    _heading(console, "what next")
    for step in answers.next_steps:
        _line(console, f"  {step}")
    if told:
        _line(console, "  in the configuration, rounded up:")
    for kind in told:
        _line(
            console,
            f'    [actions.{kind.kind}] window = "{config_duration(kind.advice.window_ms)}"',
        )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)  # the indent
    for n, name in enumerate(columns):
        table.add_column(name, justify="right" if n else "left", no_wrap=n > 0, overflow="fold")
    return table


def _heading(console: Console, text: str) -> None:
    _line(console, f"\n{text}", style="bold")


def _line(console: Console, text: str, style: str = "") -> None:
    """Text, folded at words; folded lines are indented like the first."""
    indent = len(text) - len(text.lstrip(" "))
    console.print(Padding(Text(text.strip(" "), style=style), (0, 0, 0, indent)), width=WIDTH)
