"""A summary on a console, in at most `WIDTH` columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from tools.summary.read import KindSummary, Summary

#: Columns of text that the summary needs at most, whatever the width of the console.
WIDTH = 100
#: How long an id may be in the rows that are shown; the rest is cut off.
ID_WIDTH = 16


def print_summary(
    summary: Summary, console: Console, inputs: Mapping[str, int] | None = None
) -> None:
    """Print it. `inputs`: what was read, by a name for it, if the caller has counted; otherwise it
    is worked out from what was written, as far as that tells.
    """
    _heading(console, "in")
    _lines(console, _inputs(summary, inputs))

    _heading(console, "out")
    _lines(
        console,
        [
            ("rows", summary.samples.rows, _versions(summary)),
            ("late actions", summary.late_actions.rows, _by_reason(summary.late)),
            ("rejected records", summary.rejected_records.rows, ""),
            *(
                (f"  {stream}: {reason}", count, "")
                for (stream, reason), count in summary.rejected.items()
            ),
        ],
    )
    if summary.kinds:
        _heading(console, "labels")
        _print(console, _kinds_table(summary.kinds))
    if summary.rows:
        _heading(console, "a few rows")
        _print(console, _rows_table(summary.rows, [k.kind for k in summary.kinds]))
    _heading(console, "parquet")
    _print(console, _parts_table(summary))
    # a long path is not cut: it is there to be copied
    console.print(Text(f"  under {summary.output}"), soft_wrap=True)
    if not summary.samples.rows:
        console.print(Text("  No samples were written."), style="yellow", soft_wrap=True)


def readable_ms(ms: float | None) -> str:
    """A duration with two or three digits that count: `850 ms`, `4.2 s`, `3.5 min`, `26 h`."""
    if ms is None:
        return "-"
    if abs(ms) < 1_000:
        return f"{ms:.0f} ms"
    for unit, size, limit in (("s", 1e3, 6e4), ("min", 6e4, 3.6e6), ("h", 3.6e6, 8.64e7)):
        if abs(ms) < limit:
            return f"{_digits(ms / size)} {unit}"
    return f"{_digits(ms / 8.64e7)} d"


def readable_bytes(size: float) -> str:
    """`812 B`, `3.4 kB` (1000 bytes), `25 MB`."""
    if size < 1_000:
        return f"{size:.0f} B"
    for unit, factor in (("kB", 1e3), ("MB", 1e6)):
        if size < factor * 1e3:
            return f"{_digits(size / factor)} {unit}"
    return f"{_digits(size / 1e9)} GB"


def _digits(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 9.95 else f"{value:,.0f}"


@dataclass(frozen=True)
class _Wide:
    """A table at its full width: a console without a terminal would fold it at 80 columns."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.table, options.update(width=WIDTH))


def _heading(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", style="bold"))


def _print(console: Console, table: Table) -> None:
    console.print(_Wide(table), crop=False)


def _table(*columns: str, left: int) -> Table:
    """A table without lines; the first `left` columns are texts, the others numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)  # the indent
    for n, name in enumerate(columns):
        table.add_column(name, justify="left" if n < left else "right", no_wrap=True)
    return table


def _lines(console: Console, lines: Sequence[tuple[str, int | str, str]]) -> None:
    """Name, number, and a remark."""
    table = _table("", "", "", left=1)
    table.show_header = False
    table.columns[3].justify = "left"
    table.columns[3].style = "dim"
    for name, number, remark in lines:
        text = f"{number:,}" if isinstance(number, int) else number
        table.add_row("", Text(_clip(name, 44)), Text(text), Text(_clip(remark, 36)))
    _print(console, table)


def _inputs(summary: Summary, inputs: Mapping[str, int] | None) -> list[tuple[str, int | str, str]]:
    if inputs is not None:
        return [(name, count, "") for name, count in inputs.items()]
    actions, exact = summary.actions
    return [
        ("requests", summary.requests + summary.rejected_of("features"), "with rows, or rejected"),
        ("impressions", summary.impressions, "of those with rows"),
        ("actions", f"{'' if exact else '>= '}{actions:,}", "joined, late or rejected"),
    ]


def _versions(summary: Summary) -> str:
    return f"versions of {summary.impressions:,} samples" if summary.repeated else ""


def _by_reason(late: Mapping[tuple[str, str], int]) -> str:
    reasons: dict[str, int] = {}
    for (_, reason), count in late.items():
        reasons[reason] = reasons.get(reason, 0) + count
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())


def _kinds_table(kinds: Sequence[KindSummary]) -> Table:
    table = _table(
        "action",
        "positive",
        "negative",
        "immature",
        "of rows",
        "median delay",
        "95 % delay",
        left=1,
    )
    for k in kinds:
        table.add_row(
            "",
            Text(_clip(k.kind, 24)),
            f"{k.positives:,}",
            f"{k.negatives:,}",
            f"{k.immature:,}",
            "-" if k.rate is None else f"{k.rate:.2%}",
            readable_ms(k.delay_median_ms),
            readable_ms(k.delay_p95_ms),
        )
    return table


def _rows_table(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> Table:
    """Time and ids, and for every kind for which there is room the label with its delay."""
    heads = ["time (UTC)", "request_id", "item_id"]
    cells = [
        [_time(r["event_time"]), *(_clip(r[name], ID_WIDTH) for name in heads[1:])] for r in rows
    ]
    room = WIDTH - 2 - sum(_width(heads, cells, n) + 2 for n in range(len(heads)))
    for kind in kinds:
        head, column = _clip(kind, ID_WIDTH), [_label(row, kind) for row in rows]
        width = max(cell_len(text) for text in (head, *column)) + 2
        if width > room:
            break
        room -= width
        heads.append(head)
        for line, text in zip(cells, column, strict=True):
            line.append(text)
    table = _table(*heads, left=3)
    for line in cells:
        table.add_row("", *(Text(text) for text in line))
    return table


def _width(heads: Sequence[str], cells: Sequence[Sequence[str]], n: int) -> int:
    return max(cell_len(text) for text in (heads[n], *(line[n] for line in cells)))


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def _label(row: Mapping[str, Any], kind: str) -> str:
    """`1 (4.2 s)`, `0`, or `?` where the window had not closed."""
    label, delay = row[f"label_{kind}"], row[f"delay_{kind}_ms"]
    if delay is not None:
        return f"{label:g} ({readable_ms(delay)})"
    if not row[f"mature_{kind}"]:
        return "?"
    return "-" if label is None else f"{label:g}"


def _parts_table(summary: Summary) -> Table:
    table = _table("", "rows", "files", "size", "partitions", "with _SUCCESS", "without", left=1)
    for part in (summary.samples, summary.late_actions, summary.rejected_records):
        table.add_row(
            "",
            f"{part.name}/",
            f"{part.rows:,}",
            f"{part.files:,}",
            readable_bytes(part.bytes),
            f"{part.complete + part.incomplete:,}",
            f"{part.complete:,}",
            f"{part.incomplete:,}",
        )
    return table


def _clip(text: str, width: int) -> str:
    """At most `width` columns of it (some characters take two), and nothing that moves a cursor."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if cell_len(text) <= width else set_cell_size(text, width - 2) + ".."
