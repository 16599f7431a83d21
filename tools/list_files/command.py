"""Prints which files hold the rows of a table, one a line, for programs that do not know the rule
of docs/sample-format.md, Generations.

    python -m tools.list_files OUTPUT_DIR [samples|late_actions|rejected|corrections]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from configuration.command_line import run
from schemas import generations

Table = Literal["samples", "late_actions", "rejected", "corrections"]


def list_files(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT_DIR", help="The job's output.path.")],
    table: Annotated[Table, typer.Argument(help="Which table.")] = "samples",
) -> int:
    """Print the files that hold the rows of a table now, one a line.

    After a backfill these are other files than those below the folder of the table. All are of one
    state. Exit codes: 0 printed, 2 the output cannot be read.
    """
    try:
        if not output.is_dir():
            raise FileNotFoundError(f"{output}: there is no such folder")
        found = generations.files(output, table)
    except (OSError, generations.PointerError) as error:
        print(f"files: {error}", file=sys.stderr)
        return 2
    for path in found:
        print(path)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run(list_files, argv, "python -m tools.list_files")
