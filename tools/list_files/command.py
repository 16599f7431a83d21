"""Prints which files hold the rows of a table, one a line, for programs that do not know the rule
of docs/sample-format.md, Generations.

    python -m tools.list_files OUTPUT [samples|late_actions|rejected|corrections]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import typer

from configuration import stores
from configuration.command_line import run
from configuration.store_requests import ObjectStorageSection
from configuration.stores import Folder
from schemas import generations

Table = Literal["samples", "late_actions", "rejected", "corrections"]


def list_files(
    output: Annotated[
        str, typer.Argument(metavar="OUTPUT", help="The job's output.path; a folder, or s3://….")
    ],
    table: Annotated[Table, typer.Argument(help="Which table.")] = "samples",
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="The service of s3://; without it, AWS.")
    ] = None,
) -> int:
    """Print the files that hold the rows of a table now, one a line.

    After a backfill these are other files than those below the folder of the table. All are of one
    state. Exit codes: 0 printed, 2 the output cannot be read.
    """
    try:
        root = place_of(output, endpoint)
        if not root.is_dir():
            raise FileNotFoundError(f"{output}: there is no such folder")
        found = generations.names(root, table)
    except (OSError, ValueError) as error:
        print(f"files: {error}", file=sys.stderr)
        return 2
    for name in found:
        print(root / name)
    return 0


def place_of(output: str, endpoint: str | None) -> Folder:
    """Raises ValueError, with a line for a person."""
    try:
        section = msgspec.convert({"endpoint": endpoint}, ObjectStorageSection)
    except msgspec.ValidationError:
        raise ValueError(f"--endpoint: {endpoint} is not an http or https URL") from None
    try:
        return stores.folder(output, section)
    except ValueError:
        raise ValueError(f"{output} is neither a local folder nor on s3://; mount it") from None


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run(list_files, argv, "python -m tools.list_files")
