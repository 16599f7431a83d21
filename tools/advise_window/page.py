"""The answers as one self-contained HTML page: no scripts, no network, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from presentation.page import document, figure, table
from tools.advise_window import plots
from tools.advise_window.answers import Answers, KindAnswer, config_duration
from tools.advise_window.cost import PolicyCost
from tools.advise_window.terminal import about, as_advised, has, interval, left_out, refusal
from tools.summary.show import readable_ms

_CSS = """
.wide { max-width: 46rem; }
pre { background: color-mix(in srgb, var(--rule) 35%, transparent); padding: .7rem 1rem;
  overflow-x: auto; }
tr.now td { background: color-mix(in srgb, var(--soft) 14%, transparent); }
tr.advised td { background: color-mix(in srgb, var(--advised) 18%, transparent); }
"""


def render(answers: Answers) -> str:
    """The whole page."""
    observed = answers.observed
    parts = [
        "<h1>How long to wait for a label</h1>",
        f'<p class="soft">From {escape(observed.origin)}; actions followed until '
        f"{observed.until_text}.</p>",
        *(f'<p class="warn">{escape(note)}</p>' for note in observed.notes),
        f"<p>{_summary(answers)}</p>",
        f"<h2>The shortest window that has {answers.target:.0%} of the labels</h2>",
        _windows(answers),
        *(f'<p class="warn">{escape(line)}</p>' for line in _doubts(answers)),
        '<p class="soft">"Naive" is the same share of the delays that were seen, as if no label '
        "came later than the join looks.</p>",
    ]
    if any(k.advice.told for k in answers.kinds):
        parts += [
            "<h2>How the labels come in</h2>",
            '<p class="soft">Solid: observed. Dashed: extrapolated. The band is the 95 % interval '
            "of both. Dotted: the delays that were seen, taken for all. The line across is the "
            "target.</p>",
            '<div class="plots">',
            *(figure(plots.completeness(k)) for k in answers.kinds if k.advice.told),
            "</div>",
        ]
    if answers.costs:
        parts += [
            "<h2>False negatives against freshness</h2>",
            '<p class="soft">A row that comes out at some age misses the labels that are later. '
            "<code>wait</code> misses them for good; the other policies correct the row when the "
            "label comes, until the window has closed.</p>",
            f'<div class="wide">{figure(plots.policies(answers))}</div>',
            *(f'<p class="warn">{escape(line)}</p>' for line in left_out(answers)),
            "<h3>Policies, with the windows as they are now</h3>",
            _policies(answers.costs_now),
            f"<h3>Policies, with the {escape(as_advised(answers))}</h3>",
            _policies(answers.costs),
            '<p class="soft">Rows a sample count the first action of each kind. "Fake" is the '
            'share of all labels that the first row misses, "lost" what the last still does.</p>',
        ]
    for kind in answers.kinds:
        parts += [
            f"<h2>{escape(kind.kind)}: what a wait gives, and costs</h2>",
            f'<p class="soft">{escape(about(kind))}.</p>',
            _waits(kind),
        ]
    parts.append(_next(answers))
    return document("How long to wait for a label", parts, _CSS)


def _summary(answers: Answers) -> str:
    longest = answers.longest
    now = readable_ms(answers.configured_ms)
    if longest is None:
        return (
            f"For {answers.target:.0%} of the labels of every kind the data do not tell one window;"
            f" the longest is {now} now."
        )
    return (
        f"<strong>A longest window of {readable_ms(longest.window_ms)}</strong> has"
        f" {answers.target:.0%} of the labels of every kind ({escape(interval(longest))} with 95 %"
        f" confidence; {escape(answers.longest_kind or '')} needs it). It is {now} now."
    )


def _doubts(answers: Answers) -> list[str]:
    doubts = [f"{refusal(k)}." for k in answers.kinds if not k.advice.told]
    return doubts + [f"{name}: cannot tell: {why}." for name, why in answers.refused.items()]


def _windows(answers: Answers) -> str:
    rows = []
    for k in answers.kinds:
        told = k.advice.told
        rows.append(
            [
                k.kind,
                f"{k.estimate.actions:,}",
                f"{k.estimate.ever_act:.2%}" if told else f"at least {k.estimate.act_at_least:.2%}",
                readable_ms(k.estimate.configured_ms),
                has(k),
                readable_ms(k.advice.window_ms) if told else "-",
                interval(k.advice),
                readable_ms(k.naive_ms),
                k.advice.basis,
            ]
        )
    rows += [[name, *("-",) * 7, "cannot tell"] for name in answers.refused]
    heads = ["action", "seen", "ever act", "window now", "has", "advised", "95 % interval"]
    return table([*heads, "naive", ""], rows)


def _waits(kind: KindAnswer) -> str:
    rows, classes = [], []
    for w in kind.waits:
        mark = ""
        if w.wait_ms == kind.estimate.configured_ms:
            mark = "now"
        elif w.wait_ms == kind.advice.window_ms:
            mark = "advised"
        classes.append(mark)
        rows.append(
            [
                readable_ms(w.wait_ms),
                f"{w.complete:.1%}",
                f"{w.low:.1%} to {w.high:.1%}",
                f"{w.missed:.1%}",
                f"{w.of_negatives:.3%}",
                readable_ms(w.age_ms),
                "" if w.observed else "extrapolated",
                mark,
            ]
        )
    heads = ["wait", "complete", "95 % interval", "missed", "of negatives", "sample's age", "", ""]
    return table(heads, rows, classes)


def _policies(costs: Sequence[PolicyCost]) -> str:
    heads = ["policy", "rows a sample", "first row at", "positives right at", "(mean)"]
    rows = [
        [
            c.name,
            f"{c.rows:.3f}",
            readable_ms(c.first_age_ms),
            readable_ms(c.right_median_ms),
            readable_ms(c.right_mean_ms),
            f"{c.fake:.1%}",
            f"{c.lost:.1%}",
        ]
        for c in costs
    ]
    return table([*heads, "fake", "lost"], rows)


def _next(answers: Answers) -> str:
    steps = "".join(f"<p>{escape(step)}</p>" for step in answers.next_steps)
    lines = [
        f'[actions.{k.kind}]\nwindow = "{config_duration(k.advice.window_ms)}"\n'
        for k in answers.kinds
        if k.advice.told
    ]
    if lines:
        steps += f"<p>In the configuration, rounded up:</p><pre>{escape(''.join(lines))}</pre>"
    return f"<h2>What next</h2>{steps}"
