"""The answers as one self-contained HTML page: no scripts, no network, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from tools.advise_window import plots
from tools.advise_window.answers import Answers, KindAnswer, config_duration
from tools.advise_window.cost import PolicyCost
from tools.advise_window.terminal import about, as_advised, interval
from tools.summary.show import readable_ms

_CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2024; --soft: #60656c; --rule: #d9dce0; --accent: #1769c6;
  --advised: #b4540a; --warn: #a13a00;
  --kind-0: #1769c6; --kind-1: #b4540a; --kind-2: #13795b; --kind-3: #8e4ec6;
  --kind-4: #a83269; --kind-5: #6b6f00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181b; --ink: #e8eaed; --soft: #a3a9b1; --rule: #363b41; --accent: #6cb0ff;
    --advised: #ffa057; --warn: #ffa057;
    --kind-0: #6cb0ff; --kind-1: #ffa057; --kind-2: #3dd6a3; --kind-3: #c9a0ff;
    --kind-4: #ff8cc0; --kind-5: #d3d64a;
  }
}
body { background: var(--paper); color: var(--ink); max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin-bottom: .2rem; }
p { max-width: 46rem; } .soft { color: var(--soft); } .warn { color: var(--warn); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } th:first-child, td:first-child { text-align: left; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr));
  gap: 1.2rem; }
svg { width: 100%; height: auto; display: block; } svg text { font-family: inherit; }
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
    if answers.kinds:
        parts += [
            "<h2>How the labels come in</h2>",
            '<p class="soft">Solid: observed. Dashed: extrapolated. The band is the 95 % interval '
            "of both. Dotted: the delays that were seen, taken for all. The line across is the "
            "target.</p>",
            '<div class="plots">',
            *(_figure(plots.completeness(k)) for k in answers.kinds),
            "</div>",
        ]
    if answers.costs:
        parts += [
            "<h2>False negatives against freshness</h2>",
            '<p class="soft">A row that comes out at some age misses the labels that are later. '
            "<code>wait</code> misses them for good; the other policies correct the row when the "
            "label comes, until the window has closed.</p>",
            f'<div class="wide">{_figure(plots.policies(answers))}</div>',
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
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>How long to wait for a label</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


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
    doubts = [f"{k.kind}: cannot tell: {k.advice.why}." for k in answers.kinds if k.advice.why]
    return doubts + [f"{name}: cannot tell: {why}." for name, why in answers.refused.items()]


def _windows(answers: Answers) -> str:
    rows = []
    for k in answers.kinds:
        told = k.advice.basis != "cannot tell"
        rows.append(
            [
                k.kind,
                f"{k.estimate.actions:,}",
                f"{k.estimate.ever_act:.2%}",
                readable_ms(k.now.wait_ms),
                f"{k.now.complete:.1%}",
                readable_ms(k.advice.window_ms) if told else "-",
                interval(k.advice),
                readable_ms(k.naive_ms),
                k.advice.basis,
            ]
        )
    rows += [[name, *("-",) * 7, "cannot tell"] for name in answers.refused]
    heads = ["action", "seen", "ever act", "window now", "has", "advised", "95 % interval"]
    return _table([*heads, "naive", ""], rows)


def _waits(kind: KindAnswer) -> str:
    rows, classes = [], []
    for w in kind.waits:
        mark = ""
        if w.wait_ms == kind.now.wait_ms:
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
    return _table(heads, rows, classes)


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
    return _table([*heads, "fake", "lost"], rows)


def _next(answers: Answers) -> str:
    steps = "".join(f"<p>{escape(step)}</p>" for step in answers.next_steps)
    lines = [
        f'[actions.{k.kind}]\nwindow = "{config_duration(k.advice.window_ms)}"\n'
        for k in answers.kinds
        if k.advice.basis != "cannot tell"
    ]
    if lines:
        steps += f"<p>In the configuration, rounded up:</p><pre>{escape(''.join(lines))}</pre>"
    return f"<h2>What next</h2>{steps}"


def _figure(svg: str) -> str:
    return f"<figure style='margin:0'>{svg}</figure>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = []
    for n, row in enumerate(rows):
        mark = f' class="{classes[n]}"' if classes and classes[n] else ""
        body.append(f"<tr{mark}>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
