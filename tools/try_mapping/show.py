"""What records became, on a console."""

from __future__ import annotations

from collections import Counter

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from schemas.events import Origin, Stream
from tools.audit.report import place
from tools.try_mapping.tried import Outcome, Tried

#: Columns of text that a table needs at most, whatever the width of the console.
WIDTH = 140
_COLUMNS: dict[Stream, tuple[str, ...]] = {
    "features": ("request", "user", "time (UTC)", "items", "features (of the first item)"),
    "actions": ("request", "user", "time (UTC)", "item", "action", "event id"),
}


def show(tried: Tried, console: Console, source: str) -> None:
    """Print a line for each event that the records became, and why others did not.

    `source`: the key of the source that they are of.
    """
    console.print(Text(f"\n{source}", style="bold"))
    if not tried.outcomes:
        console.print("  no records were found")
        return
    console.print(_Wide(_table(tried)), crop=False)
    for outcome in tried.outcomes:
        if outcome.why:
            where = _where(outcome.record.origin)
            line = Text(f"  {where}  {outcome.word}: ", style="red")
            console.print(line.append(_printable(outcome.why)), soft_wrap=True)
    counts = Counter("rejected" if outcome.why else outcome.word for outcome in tried.outcomes)
    summary = ", ".join(
        f"{count} {word}{'s' if word in ('request', 'action') and count > 1 else ''}"
        for word, count in counts.most_common()
    )
    console.print(Text(f"  {summary}"), soft_wrap=True)
    if tried.unread:
        listed = ", ".join(_printable(path) for path in sorted(tried.unread))
        console.print(Text(f"  not asked for: {listed}", style="dim"), soft_wrap=True)


class _Wide:
    """A table at its full width: a console without a terminal would fold it at 80 columns."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self._table, options.update(width=WIDTH))


def _table(tried: Tried) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("  record", "becomes", *_COLUMNS[tried.stream]):
        # what is long goes on in the next line; nothing is cut off
        table.add_column(name, no_wrap=not name.startswith(("item", "features")), overflow="fold")
    before = None
    for outcome in tried.outcomes:
        # the events of one record stand below each other
        where = "" if outcome.record is before else _where(outcome.record.origin)
        before = outcome.record
        style = "red" if outcome.why else "dim" if outcome.word in ("skipped", "ignored") else ""
        cells = [_printable(cell) for cell in outcome.cells]
        table.add_row(f"  {where}", _word(outcome), *cells, style=style)
    return table


def _word(outcome: Outcome) -> str:
    return f"rejected: {outcome.word}" if outcome.why else outcome.word


def _where(origin: Origin) -> str:
    return _printable(place(origin))


def _printable(text: str) -> str:
    # ids come from the input: nothing in them may move the cursor
    return "".join(c if c.isprintable() else "?" for c in text)
