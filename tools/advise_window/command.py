"""How long to wait for a label: advice from what the joining job wrote, or from the event files.

    python -m tools.advise_window --config FILE [--target 0.95] [--from events] [--html PAGE]

For each kind of action: how late it comes, also beyond what was followed; the shortest window that
has the target share of the labels; what other waits, and other emission policies, would cost. What
the figures mean is in docs/how-long-to-wait.md. Exit codes: 0 answered (also when the answer for a
kind is that the data cannot tell), 2 the configuration or the data cannot be used, and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import typer
from rich.console import Console

from configuration.command_line import Overrides, PipelineFile, run
from jobs.pipeline.config import ConfigError, Pipeline, load

ANSWERED, WRONG = 0, 2


def _share(value: float) -> float:
    """A share such as 0.95. 95 is refused, because it is probably a percentage."""
    if not 0 < value < 1:
        raise typer.BadParameter(f"expected a share between 0 and 1, like 0.95; got {value:g}")
    return value


def advise(
    config: PipelineFile,
    overrides: Overrides = None,
    target: Annotated[
        float,
        typer.Option(
            callback=_share,
            metavar="SHARE",
            help="The share of the labels that must be there when the window ends.",
        ),
    ] = 0.95,
    source: Annotated[
        Literal["samples", "events"],
        typer.Option("--from", help="Read the job's output, or the event files that it reads."),
    ] = "samples",
    html: Annotated[
        Path | None, typer.Option(metavar="PAGE", help="Also write a page with plots.")
    ] = None,
) -> int:
    """Say how long to wait for a label.

    What the figures mean is in docs/how-long-to-wait.md. Exit codes: 0 answered (also when the
    answer for a kind is that the data cannot tell), 2 the configuration or the data cannot be used.
    """
    errors = Console(stderr=True, highlight=False)
    try:
        return _advise(load(config, overrides or ()), target, source, html, errors)
    except (ConfigError, OSError, pa.ArrowInvalid) as error:
        errors.print(f"advise: {error}", markup=False, soft_wrap=True)
    except ModuleNotFoundError as error:
        if error.name not in ("scipy", "matplotlib"):
            raise
        errors.print(
            f"advise: {error.name} is not installed; run `make setup-advise`, or"
            " `pip install sample-stitch[advise]`",
            markup=False,
            soft_wrap=True,
        )
    return WRONG


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run(advise, argv, "python -m tools.advise_window")


def _advise(
    pipeline: Pipeline, target: float, source: str, page: Path | None, errors: Console
) -> int:
    # SciPy takes a second to import, and matplotlib some: not for --help, or a wrong option.
    from tools.advise_window import read_events, read_samples, terminal
    from tools.advise_window.answers import answer

    read = read_events.read if source == "events" else read_samples.read
    answers = answer(pipeline, read(pipeline), target)
    if page is not None:
        from tools.advise_window.page import render

        page.write_text(render(answers), encoding="utf-8")
    console = Console(highlight=False)
    if console.width < terminal.WIDTH:
        # A narrow terminal folds the tables; it does not cut them.
        console = Console(highlight=False, width=terminal.WIDTH)
    terminal.print_answers(answers, console)
    if page is not None:
        errors.print(f"advise: the page is {page}", markup=False, soft_wrap=True)
    return ANSWERED
