"""How long to wait for a label: advice from what the joining job wrote, or from the event files.

    python -m tools.advise_window --config FILE [--target 0.95] [--from events] [--html PAGE]

For each kind of action: how late it comes, also beyond what was followed; the shortest window that
has the target share of the labels; what other waits, and other emission policies, would cost. What
the figures mean is in docs/how-long-to-wait.md. Exit codes: 0 answered (also when the answer for a
kind is that the data cannot tell), 2 the configuration or the data cannot be used, and why.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from jobs.pipeline.command_line import add_pipeline
from jobs.pipeline.config import ConfigError, load
from tools.summary.command import WIDTH

ANSWERED, WRONG = 0, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = _parser().parse_args(argv)
    errors = Console(stderr=True, highlight=False)
    try:
        return _advise(arguments, errors)
    except (ConfigError, OSError, pa.ArrowInvalid) as error:
        errors.print(f"advise_window: {error}", markup=False, soft_wrap=True)
    except ModuleNotFoundError as error:
        if error.name not in ("scipy", "matplotlib"):
            raise
        errors.print(
            f"advise_window: {error.name} is not installed; run `make setup-advise`, or"
            " `pip install sample-stitch[advise]`",
            markup=False,
            soft_wrap=True,
        )
    return WRONG


def _advise(arguments: argparse.Namespace, errors: Console) -> int:
    # scipy takes a second to import, and matplotlib some: not for --help, or a wrong option
    from tools.advise_window import read_events, read_samples, terminal
    from tools.advise_window.answers import answer

    pipeline = load(arguments.config, arguments.set)
    read = read_events.read if arguments.source == "events" else read_samples.read
    answers = answer(pipeline, read(pipeline), arguments.target)
    page: Path | None = arguments.html
    if page is not None:
        from tools.advise_window.page import render

        page.write_text(render(answers), encoding="utf-8")
    console = Console(highlight=False)
    if console.width < WIDTH:
        # a table is folded by the terminal at most, and not cut
        console = Console(highlight=False, width=WIDTH)
    terminal.print_answers(answers, console)
    if page is not None:
        errors.print(f"advise_window: the page is {page}", markup=False, soft_wrap=True)
    return ANSWERED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.advise_window",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="What the figures mean: docs/how-long-to-wait.md. Exit codes: 0 answered, "
        "2 the configuration or the data cannot be used.",
    )
    add_pipeline(parser)
    parser.add_argument(
        "--target",
        type=_share,
        default=0.95,
        help="the share of the labels that a window is to have (default 0.95)",
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=("samples", "events"),
        default="samples",
        help="the job's output (default), or the event files that it reads",
    )
    parser.add_argument("--html", type=Path, metavar="PAGE", help="also write a page with plots")
    return parser


def _share(text: str) -> float:
    """0.95; 95 is taken for a slip."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, like 0.95; got {text}")
    return value
