"""What all commands have in common: `--config`, `--set`, and how a command runs and ends.

A command is a function of annotated options that returns its exit code. `run` makes a command line
of it. Usage errors (an unknown option, a value of the wrong type) end with exit code 2.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

#: `--config FILE`: the pipeline.
PipelineFile = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The pipeline's configuration (TOML).")
]
#: `--config FILE`: the trainer's.
TrainerFile = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The trainer's configuration (TOML).")
]
#: `--config FILE`: that of a service beside an application.
ServiceFile = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The service's configuration (TOML).")
]
#: `--set a.b=value`, any number of times; None when there is none.
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=value", help="Override one key of the file. Repeatable."),
]


def application(command: Callable[..., int]) -> typer.Typer:
    """The command-line program of one command; its docstring is the help text."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

    @functools.wraps(command)
    def ends(*args: Any, **options: Any) -> None:
        raise typer.Exit(command(*args, **options))

    # A paragraph of the docstring is one line of the help: the terminal decides where it breaks.
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    app.command(help="\n\n".join(" ".join(p.split()) for p in paragraphs))(ends)
    return app


def run(command: Callable[..., int], argv: Sequence[str] | None, name: str) -> int:
    """Run a command with these arguments (None: those of the process); returns the exit code.

    `name` is what usage and error messages call it.
    """
    try:
        application(command)(args=argv, prog_name=name)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0
