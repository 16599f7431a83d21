"""`sample-stitch summary OUTPUT_DIR`: what a run wrote, for a person."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from configuration.command_line import run
from tools.summary.read import summarise
from tools.summary.show import print_summary


def summary(
    output: Annotated[str, typer.Argument(metavar="OUTPUT_DIR", help="The job's output.path.")],
) -> int:
    """Show what a joining job has written: samples, labels, late actions, rejected records.

    Works while the job runs, too. Exit codes: 0 printed, 2 the output cannot be read.
    """
    folder = Path(output)
    if "://" in output:
        print(f"summary: {output} is not a local folder; mount it", file=sys.stderr)
        return 2
    try:
        if not folder.is_dir():
            raise FileNotFoundError(f"{output}: there is no such folder")
        made = summarise(folder)
    except (OSError, ValueError) as error:
        print(f"summary: {error}", file=sys.stderr)
        return 2
    print_summary(made, Console(highlight=False))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run(summary, argv, "python -m tools.summary")
