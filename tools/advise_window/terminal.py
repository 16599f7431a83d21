"""The answers on a terminal, in at most `tools.summary.show.WIDTH` columns."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tools.advise_window.answers import Answers, KindAnswer, config_duration
from tools.advise_window.delays import Advice
from tools.summary.show import readable_ms

_BASIS_STYLE = {"observed": "", "extrapolated": "yellow", "cannot tell": "red"}


def print_answers(answers: Answers, console: Console) -> None:
    """Print them: the windows, a table of waits for each kind, the policies, and what to do."""
    observed = answers.observed
    _line(console, "how long to wait for a label", style="bold")
    _line(console, f"  from {observed.origin}", style="dim")
    _line(console, f"  actions followed until {observed.until_text}", style="dim")
    for note in observed.notes:
        _line(console, f"  note: {note}", style="yellow")

    _heading(console, f"the shortest window that has {answers.target:.0%} of the labels")
    console.print(_windows(answers), crop=False)
    for kind in answers.kinds:
        if kind.advice.why:
            _line(console, f"  {kind.kind}: cannot tell: {kind.advice.why}", style="red")
    for name, why in answers.refused.items():
        _line(console, f"  {name}: cannot tell: {why}", style="red")

    for kind in answers.kinds:
        _heading(console, f"{kind.kind}: what a wait gives, and costs")
        _line(console, f"  {about(kind)}", style="dim")
        console.print(_waits(kind), crop=False)
    if answers.costs:
        _heading(console, "emission policies, all labels together")
        console.print(_policies(answers), crop=False)
    _next(console, answers)


def about(kind: KindAnswer) -> str:
    """In a line: how far the data reach, and what the tail rests on."""
    estimate = kind.estimate
    reach = readable_ms(estimate.reach)
    beyond = 1 - estimate.within_reach
    names = " or ".join(fit.family.name for fit in estimate.plausible)
    if beyond < 0.0005:
        return f"observed up to {reach}; practically nothing comes later ({names})"
    return (
        f"observed up to {reach}; {beyond:.1%} of the labels come later, by extrapolation ({names})"
    )


def as_advised(answers: Answers) -> str:
    """Which windows the advised ones are: those without advice stay."""
    stay = [k.kind for k in answers.kinds if k.advice.basis == "cannot tell"]
    return "windows as advised" + (f" ({', '.join(stay)} as now)" if stay else "")


def interval(advice: Advice) -> str:
    """`40 s to 42 s`; open where the data set no limit."""
    if math.isinf(advice.high):
        return f"{readable_ms(advice.low)} or longer"
    return f"{readable_ms(advice.low)} to {readable_ms(advice.high)}"


def _windows(answers: Answers) -> Table:
    table = _table(
        "action", "seen", "ever act", "now", "has", "advised", "95 % interval", "naive", ""
    )
    for k in answers.kinds:
        told = k.advice.basis != "cannot tell"
        table.add_row(
            "",
            Text(k.kind),
            f"{k.estimate.actions:,}",
            f"{k.estimate.ever_act:.2%}",
            readable_ms(k.now.wait_ms),
            f"{k.now.complete:.1%}",
            Text(readable_ms(k.advice.window_ms), style="bold") if told else "-",
            interval(k.advice),
            readable_ms(k.naive_ms),
            Text(k.advice.basis, style=_BASIS_STYLE[k.advice.basis]),
        )
    for name in answers.refused:
        table.add_row("", Text(name), *("-",) * 7, Text("cannot tell", style="red"))
    longest = answers.longest
    table.add_row(
        "",
        Text("the pipeline", style="bold"),
        *("", "", readable_ms(answers.configured_ms), ""),
        Text("-" if longest is None else readable_ms(longest.window_ms), style="bold"),
        "" if longest is None else interval(longest),
        "",
        "" if longest is None else Text(f"for {answers.longest_kind}"),
    )
    table.columns[-1].justify = "left"
    return table


def _waits(kind: KindAnswer) -> Table:
    table = _table(
        "wait", "complete", "95 % interval", "missed", "of negatives", "sample's age", "", ""
    )
    for w in kind.waits:
        mark = ""
        if w.wait_ms == kind.now.wait_ms:
            mark = "now"
        elif w.wait_ms == kind.advice.window_ms:
            mark = "advised"
        table.add_row(
            "",
            Text(readable_ms(w.wait_ms)),
            f"{w.complete:.1%}",
            f"{w.low:.1%} to {w.high:.1%}",
            f"{w.missed:.1%}",
            f"{w.of_negatives:.3%}",
            readable_ms(w.age_ms),
            "" if w.observed else Text("extrapolated", style="yellow"),
            Text(mark, style="bold"),
        )
    table.columns[-1].justify = table.columns[-2].justify = "left"
    return table


def _policies(answers: Answers) -> Table:
    table = _table(
        "policy", "rows a sample", "first row at", "positives right at", "fake negatives", "lost"
    )
    for title, costs in (
        ("windows as they are now", answers.costs_now),
        (as_advised(answers), answers.costs),
    ):
        table.add_row("", Text(title, style="dim"), *("",) * 5)
        for cost in costs:
            median, mean = readable_ms(cost.right_median_ms), readable_ms(cost.right_mean_ms)
            table.add_row(
                "",
                Text(f"  {cost.name}"),
                f"{cost.rows:.3f}",
                readable_ms(cost.first_age_ms),
                f"{median} (mean {mean})",
                f"{cost.fake:.1%}",
                f"{cost.lost:.1%}",
            )
    return table


def _next(console: Console, answers: Answers) -> None:
    told = [k for k in answers.kinds if k.advice.basis != "cannot tell"]
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
        table.add_column(name, justify="right" if n else "left", no_wrap=True)
    return table


def _heading(console: Console, text: str) -> None:
    _line(console, f"\n{text}", style="bold")


def _line(console: Console, text: str, style: str = "") -> None:
    # long paths are there to be copied, and are not cut
    console.print(Text(text, style=style), soft_wrap=True)
