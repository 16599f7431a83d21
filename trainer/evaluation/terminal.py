"""The headline of the evaluation on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.evaluation.measures import Measures
from trainer.evaluation.tally import ALL, Tally

_WIDTH = 100


def print_headline(tally: Tally, console: Console) -> None:
    """One row per action: for the whole run, and for the last window where there are several."""
    whole = [m for m in tally.whole() if m.slice == ALL]
    if not whole:
        console.print(Text("no row was evaluated", style="yellow"))
        return
    last = tally.windows[-1]
    latest = [m for m in tally.metrics() if m.slice == ALL and m.window == last]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column, name in enumerate(
        ("evaluated", "rows", "CTR", "predicted", "log loss", "NE", "AUC", "calibration")
    ):
        table.add_column(name, justify="right" if column else "left", no_wrap=True)
    for title, metrics in (("whole run", whole), ("last window", latest)):
        if title == "last window" and len(tally.windows) == 1:
            break
        table.add_row(Text(title, style="bold"))
        for metric in metrics:
            table.add_row(Text(f"  {metric.action}"), *_cells(metric.measures))
    # lines that are too long are better than numbers that are cut off
    before, console.width = console.width, max(console.width, _WIDTH)
    console.print(table)
    console.width = before


def _cells(measures: Measures) -> list[str]:
    return [
        f"{measures.rows:,}",
        f"{measures.ctr:.3%}",
        f"{measures.prediction:.3%}",
        f"{measures.log_loss:.4f}",
        _optional(measures.normalized_entropy, 4),
        _optional(measures.auc, 4),
        _optional(measures.calibration, 3),
    ]


def _optional(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
