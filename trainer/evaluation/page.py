"""The evaluation as one self-contained HTML page: no scripts, no network, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from html import escape

from presentation.page import document, figure, table
from trainer.evaluation import plots
from trainer.evaluation.measures import Measures
from trainer.evaluation.tally import ALL, PRESENT, UNSEEN, Labels, Metric, Tally, slot_slice

#: How many values of a slice column are shown: those with most rows. Parquet has all.
SHOWN = 12

_CSS = """
.info td { text-align: left; white-space: normal; } .info td:first-child { color: var(--soft); }
.legend span { margin-right: 1.2rem; white-space: nowrap; }
.legend svg { display: inline; width: 1.6rem; height: .6rem; margin-right: .4rem; }
"""

_MEASURES = ("rows", "CTR", "predicted", "log loss", "NE", "AUC", "calibration")


def render(
    tally: Tally,
    info: Sequence[tuple[str, str]],
    title: str,
    labels: Labels | None = None,
) -> str:
    """The whole page.

    `info`: names and values of facts about the run. `labels`: names of the values of the slice
    columns.
    """
    by_window, whole = tally.metrics(labels), tally.whole(labels)
    parts = [f"<h1>{escape(title)}</h1>"]
    if whole:
        parts += [
            f'<p class="soft">{_range(tally)} Each row is predicted before it is learned.</p>',
            *_headline(tally, by_window, whole),
            *_plots(tally, by_window),
            *_slots(tally, whole),
            *(part for column in tally.layout.columns for part in _slice(tally, whole, column)),
        ]
    else:
        parts.append("<p>No row was evaluated.</p>")
    if info:
        parts += ["<h2>The run</h2>", _info(info)]
    return document(title, parts, _CSS)


def _range(tally: Tally) -> str:
    windows, width = tally.windows, tally.layout.window_ms
    count = "One window" if len(windows) == 1 else f"{len(windows)} windows"
    return (
        f"{count} of {_duration(width)}, event times from {_moment(windows[0])} to"
        f" {_moment(windows[-1] + width)} UTC."
    )


def _headline(tally: Tally, by_window: Sequence[Metric], whole: Sequence[Metric]) -> list[str]:
    last = tally.windows[-1]
    latest = [metric for metric in by_window if metric.window == last]
    parts = []
    for name, metrics in (("the whole run", whole), ("the last window", latest)):
        rows = [[m.action, *_cells(m.measures)] for m in metrics if m.slice == ALL]
        parts += [f"<h2>Metrics of {name}</h2>", table(("action", *_MEASURES), rows)]
        if len(tally.windows) == 1:
            break
    return [
        *parts,
        '<p class="soft">NE: the log loss over that of always predicting the CTR; less is better, 1'
        " is no better than that. Calibration: the sum of the predictions over that of the labels;"
        " 1 is right.</p>",
    ]


def _plots(tally: Tally, by_window: Sequence[Metric]) -> list[str]:
    actions, width = tally.layout.actions, tally.layout.window_ms
    every = [[m for m in by_window if m.slice == ALL and m.action == action] for action in actions]

    def series(measure: str) -> list[plots.Series]:
        return [
            plots.Series(
                action,
                [m.window for m in metrics if m.window is not None],
                [getattr(m.measures, measure) for m in metrics],
            )
            for action, metrics in zip(actions, every, strict=True)
        ]

    figures = [
        plots.over_time("Normalised entropy", series("normalized_entropy"), width, line_at=1.0),
        plots.over_time("AUC", series("auc"), width),
        plots.over_time("Calibration", series("calibration"), width, line_at=1.0),
        plots.over_time("Rows", series("rows"), width, counts=True),
        plots.over_time("Log loss", series("log_loss"), width),
        plots.reliability([(action, tally.histogram(action)) for action in actions]),
    ]
    return [
        "<h2>Over time</h2>",
        _legend(actions),
        '<div class="plots">',
        *map(figure, figures),
        "</div>",
        '<p class="soft">A triangle is a window beyond the edge of its plot. Reliability: rows in'
        " groups by their prediction, of the whole run.</p>",
    ]


def _legend(actions: Sequence[str]) -> str:
    entries = []
    for number, action in enumerate(actions):
        colour, dashes = plots.legend_style(number)
        line = (
            f'<svg viewBox="0 0 26 10" aria-hidden="true"><line x1="0" y1="5" x2="26" y2="5"'
            f' stroke="{colour}" stroke-width="3" stroke-dasharray="{dashes}"/></svg>'
        )
        entries.append(f"<span>{line}{escape(action)}</span>")
    return f'<p class="legend">{"".join(entries)}</p>'


def _slots(tally: Tally, whole: Sequence[Metric]) -> list[str]:
    found = {(m.action, m.slice, m.value): m.measures for m in whole}
    slots = tally.layout.slots
    if not any((a, slot_slice(s), PRESENT) in found for a in tally.layout.actions for s in slots):
        return []
    overall = {a: found[a, ALL, ""] for a in tally.layout.actions if (a, ALL, "") in found}
    most = max(overall, key=lambda action: overall[action].rows)
    rows = [["all rows", "", "", *(_number(measures.log_loss) for measures in overall.values())]]
    for slot in slots:
        name = slot_slice(slot)
        present = _rows(found.get((most, name, PRESENT)))
        unseen = _rows(found.get((most, name, UNSEEN)))
        losses = []
        for action in overall:
            measures = found.get((action, name, UNSEEN))
            losses.append("-" if measures is None else _number(measures.log_loss))
        share = f"{unseen / present:.2%}" if present else "-"
        rows.append([slot, f"{present / overall[most].rows:.1%}", share, *losses])
    heads = ("slot", "present", "unseen", *(f"log loss, {action}" for action in overall))
    return [
        "<h2>By slot</h2>",
        table(heads, rows),
        f'<p class="soft">Present: of the rows ({escape(most)}), where the slot has a key. Unseen:'
        " of those, where the key had no parameters yet. The log loss is that of the rows where it"
        " is unseen, beside that of all rows.</p>",
    ]


def _slice(tally: Tally, whole: Sequence[Metric], column: str) -> list[str]:
    parts = [f"<h2>By {escape(column)}</h2>"]
    for action in tally.layout.actions:
        here = [m for m in whole if m.slice == column and m.action == action]
        if not here:
            continue
        here.sort(key=lambda m: m.measures.rows, reverse=True)
        parts += [
            f"<h3>{escape(action)}</h3>" if len(tally.layout.actions) > 1 else "",
            table((column, *_MEASURES), [[m.value, *_cells(m.measures)] for m in here[:SHOWN]]),
        ]
        if len(here) > SHOWN:
            parts.append(f'<p class="soft">And {len(here) - SHOWN} more, with fewer rows.</p>')
    return parts if len(parts) > 1 else []


def _info(info: Sequence[tuple[str, str]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in info
    )
    return f'<div class="scroll"><table class="info"><tbody>{rows}</tbody></table></div>'


def _cells(measures: Measures) -> list[str]:
    return [
        f"{measures.rows:,}",
        f"{measures.ctr:.3%}",
        f"{measures.prediction:.3%}",
        *map(_number, (measures.log_loss, measures.normalized_entropy, measures.auc)),
        _number(measures.calibration, 3),
    ]


def _rows(measures: Measures | None) -> int:
    return 0 if measures is None else measures.rows


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _moment(ms: int) -> str:
    if not 0 <= ms < plots.YEAR_10000_MS:
        return f"{ms} ms"  # an accepted time that is beyond the calendar
    return datetime.fromtimestamp(ms / 1_000, timezone.utc).strftime("%Y-%m-%d %H:%M")


def _duration(ms: int) -> str:
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if ms % size == 0:
            return f"{ms // size} {unit}"
    return f"{ms} ms"
