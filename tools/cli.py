"""`sample-stitch`: one command for people, with the tools and the job as subcommands.

On a Flink cluster the job is submitted as `flink run -py jobs/join_samples.py`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from configuration.command_line import application, run

NAME = "sample-stitch"
#: Subcommand: the function that it runs, and what it does.
COMMANDS = {
    "join": ("jobs.join_samples:join", "Join feature and action streams into samples."),
    "archive": ("jobs.archive_events:keep", "Keep the topics as Parquet, every record once."),
    "backfill": ("jobs.backfill.command:backfill", "Join hours again, and replace them at once."),
    "summary": ("tools.summary.command:summary", "Show what a run has written."),
    "files": ("tools.list_files.command:list_files", "List the files that hold the rows now."),
    "audit": ("tools.audit.command:check", "Check that every record is accounted for."),
    "try-mapping": (
        "tools.try_mapping.command:try_mapping",
        "Show what records become by a mapping.",
    ),
    "infer-schema": (
        "tools.infer_schema.command:infer_schema",
        "Propose features from a sample of records.",
    ),
    "advise": ("tools.advise_window.command:advise", "Say how long to wait for labels."),
    "correct": ("tools.correct_samples.command:write", "Apply late actions to samples."),
    "generate": ("tools.generate.command:make", "Generate events to try a pipeline on."),
    "compare": (
        "tools.compare_policies.command:policies",
        "Compare the emission policies on generated traffic.",
    ),
    "demo": ("tools.demo.command:demo", "Generate traffic, join it, and show what came out."),
    "train": ("", "Train a model on the samples."),
}
_TRAINER_PYTHON = Path(__file__).resolve().parents[1] / ".venv-trainer" / "bin" / "python"
#: A subcommand parses its own options, `--help` among them.
_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True}


def _train(arguments: Sequence[str]) -> NoReturn:
    """Replace this process by the trainer, which has its own environment."""
    if not _TRAINER_PYTHON.exists():
        print("train: the trainer is not set up; run `make setup-trainer`", file=sys.stderr)
        raise typer.Exit(2)
    python = str(_TRAINER_PYTHON)
    os.execv(python, [python, "-m", "trainer.train", *arguments])


def _loaded(name: str) -> Callable[..., int]:
    module, _, function = COMMANDS[name][0].partition(":")
    command: Callable[..., int] = getattr(importlib.import_module(module), function)
    return command


class _Subcommands(TyperGroup):
    """Imports a subcommand's module only when it runs or its options are completed.

    Arrow and SciPy take a second to import, which `--help` and completion should not wait for.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if ctx.resilient_parsing and cmd_name in COMMANDS and cmd_name != "train":
            return typer.main.get_command(application(_loaded(cmd_name)))
        return super().get_command(ctx, cmd_name)


def _program() -> typer.Typer:
    app = typer.Typer(
        cls=_Subcommands,
        help="Join feature and action streams into training samples, and train on them.",
        epilog="Every subcommand has --help. The documentation is in docs/.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    for name, (_, text) in COMMANDS.items():
        app.command(name, help=text, add_help_option=False, context_settings=_PASS_ON)(_call(name))
    return app


def _call(name: str) -> Callable[[typer.Context], None]:
    def call(context: typer.Context) -> None:
        if name == "train":
            _train(context.args)
        raise typer.Exit(run(_loaded(name), context.args, f"{NAME} {name}"))

    return call


def main() -> None:
    """The console script; ends the process with the subcommand's exit code."""
    _program()(prog_name=NAME)


if __name__ == "__main__":
    main()
