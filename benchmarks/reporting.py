"""What the reports share: a table, its form on a terminal, and facts about the machine."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable


@dataclass(frozen=True)
class Table:
    """A table of results; the first column names what was measured. `note`: a line below it."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


def rich_table(table: Table) -> RichTable:
    """The table for a terminal."""
    made = RichTable(title=table.title, caption=table.note or None, title_justify="left")
    for i, name in enumerate(table.header):
        made.add_column(name, justify="left" if i == 0 else "right")
    for row in table.rows:
        made.add_row(*row)
    return made


def machine() -> dict[str, Any]:
    """Facts about the machine that affect the results, without its name."""
    memory = 0.0
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            memory = int(line.split()[1]) / 1024**2
    model = platform.machine()
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "cores": os.cpu_count(),
        "processor": model,
        "memory_gb": round(memory),
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
