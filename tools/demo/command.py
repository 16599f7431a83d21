"""The main job over generated traffic, or over the bundled events, and a summary of what came out.

    python -m tools.demo [--requests N | --bundled] [--output DIR]

Generated traffic is there to be trained on: the trainer's configuration (examples/demo) is put
beside it. With `--bundled` the fixtures written by hand are joined (tests/fixtures/by_hand, where a
README says what becomes of every line); they are too few to learn from.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from rich.console import Console

from jobs import join_samples
from jobs.pipeline.config import FilesSource, load
from jobs.pipeline.file_plan import find
from schemas import event_files
from schemas.events import STREAMS
from tools.generate import command as generate
from tools.summary.read import summarise
from tools.summary.show import print_summary

ROOT = Path(__file__).resolve().parents[2]
TRAINER = ROOT / "examples" / "demo" / "trainer.toml"
BUNDLED = ROOT / "tests" / "fixtures" / "by_hand" / "request_id" / "pipeline.toml"


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code of the job, see `jobs.join_samples`."""
    parser = argparse.ArgumentParser(prog="demo", description=(__doc__ or "").split("\n\n")[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--requests", type=int, default=3_000, help="how many to generate")
    what.add_argument("--bundled", action="store_true", help="join the events written by hand")
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "demo")
    arguments = parser.parse_args(argv)

    output: Path = arguments.output.resolve()
    if output.exists():
        shutil.rmtree(output)
    config = BUNDLED
    if not arguments.bundled:
        code = generate.write(output / "in", requests=arguments.requests)
        if code:
            return code
        config = output / "in" / "pipeline.toml"
        shutil.copy(TRAINER, output / "trainer.toml")

    console = Console(highlight=False)
    console.print("[bold]sample-stitch[/] · joining on a mini-cluster in this machine", end="\n\n")
    code = join_samples.main(["--config", str(config), "--set", f"output.path={output}"])
    if code:
        return code
    print_summary(summarise(output), console, _read(config))
    if arguments.bundled:
        shown = BUNDLED.parent.parent.relative_to(ROOT) / "README.md"
        console.print(f"\n{shown} says what became of every line")
    return 0


def _read(config: Path) -> dict[str, int]:
    """How many records there were to read, by stream; blank lines are none."""
    sources = load(config).sources
    counts: dict[str, int] = {}
    for stream in STREAMS:
        source = getattr(sources, stream)
        assert isinstance(source, FilesSource)
        files = find(stream, source.path)
        counts[f"{stream} records"] = sum(1 for file in files for _ in event_files.lines(file))
    return counts
