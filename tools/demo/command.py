"""The main job over generated traffic, or over the bundled events, and a summary of what came out.

    python -m tools.demo [--requests N | --bundled] [--output DIR]

Generated traffic is there to be trained on: the trainer's configuration (examples/demo) is put
beside it. With `--bundled` the fixtures written by hand are joined (tests/fixtures/by_hand, where a
README says what becomes of every line); they are too few to learn from.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from configuration.command_line import run
from jobs import join_samples
from jobs.pipeline import runs
from jobs.pipeline.config import FilesSource, load
from jobs.pipeline.file_plan import find
from schemas import event_files
from tools.generate import command as generate
from tools.summary.read import summarise
from tools.summary.show import print_summary

ROOT = Path(__file__).resolve().parents[2]
TRAINER = ROOT / "examples" / "demo" / "trainer.toml"
OUTPUT = ROOT / "out" / "demo"
BUNDLED = ROOT / "tests" / "fixtures" / "by_hand" / "request_id" / "pipeline.toml"


def demo(
    requests: Annotated[int, typer.Option(help="Number of requests to generate.")] = 3_000,
    bundled: Annotated[
        bool, typer.Option("--bundled", help="Join the bundled events instead of generated ones.")
    ] = False,
    output: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Where to write; emptied first.", show_default="out/demo"),
    ] = OUTPUT,
) -> int:
    """Generate traffic, join it, and show what came out.

    Exit codes: 0 done, else those of `sample-stitch join`.
    """
    output = output.resolve()
    if output.exists():
        shutil.rmtree(output)
    config = BUNDLED
    if not bundled:
        code = generate.write(output / "in", requests=requests)
        if code:
            return code
        config = output / "in" / "pipeline.toml"
        shutil.copy(TRAINER, output / "trainer.toml")
        # what the generator writes says another folder; the file has to be right for later commands
        config.write_text(config.read_text().replace('path = "out"', 'path = ".."'))
        assert Path(load(config).output.path) == output

    console = Console(highlight=False)
    console.print("[bold]sample-stitch[/] · joining on a mini-cluster in this machine", end="\n\n")
    if not bundled:
        console.print(
            "Some records are late, doubled or broken on purpose: the job warns of them,"
            " and rejects what it cannot use.",
            end="\n\n",
        )
    code = join_samples.main(["--config", str(config), "--set", f"output.path={output}"])
    if code:
        return code
    print_summary(summarise(output), console, _read(config))
    if bundled:
        shown = BUNDLED.parent.parent.relative_to(ROOT) / "README.md"
        console.print(f"\n{shown} says what became of every line")
    _print_next(output, console, trained=not bundled)
    return 0


def _print_next(output: Path, console: Console, *, trained: bool) -> None:
    """The commands that work on what is there now."""
    here = Path.cwd()
    shown = output.relative_to(here) if output.is_relative_to(here) else output
    config = shlex.quote(str(shown / runs.PIPELINE))
    commands = [
        (f"make audit CONFIG={config}", "is every record accounted for?"),
        (f"make correct CONFIG={config}", "corrections from late actions"),
        (f"make advise CONFIG={config}", "how long to wait for labels"),
        (f".venv/bin/python -m tools.summary {shlex.quote(str(shown))}", "this summary again"),
    ]
    if trained:
        trainer = shlex.quote(str(shown / "trainer.toml"))
        commands.append((f"make train CONFIG={trainer}", "train once more"))
    console.print("\n[bold]try next[/]")
    width = max(len(command) for command, _ in commands)
    for command, what in commands:
        console.print(f"  {command:{width}}   {what}", markup=False, soft_wrap=True)


def _read(config: Path) -> dict[str, int]:
    """How many records there were to read, by stream; blank lines are none."""
    sources = load(config).sources
    counts: dict[str, int] = {}
    for named in sources.each:
        assert isinstance(named.source, FilesSource)
        files = find(named.key, named.source.path)
        counts[f"{named.key} records"] = sum(1 for file in files for _ in event_files.lines(file))
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run(demo, argv, "python -m tools.demo")
