"""The main job over the bundled events, or over generated ones, and a summary of what came out.

    python -m jobs.demo [--requests N] [--output DIR]

Without `--requests` it joins the fixtures written by hand (tests/fixtures/by_hand, where a README
says what becomes of every line); with it, N requests of realistic traffic are generated first.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from rich.console import Console

from jobs import generate, join_samples
from jobs.config import FilesSource, load
from jobs.files import find
from jobs.summary import print_summary, summarise
from schemas.events import STREAMS

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "tests" / "fixtures" / "by_hand" / "request_id" / "pipeline.toml"


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code of the job, see `jobs.join_samples`."""
    parser = argparse.ArgumentParser(prog="demo", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--requests", type=int, help="generate so many requests, and join those")
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "demo")
    arguments = parser.parse_args(argv)

    output: Path = arguments.output.resolve()
    if output.exists():
        shutil.rmtree(output)
    config = BUNDLED
    if arguments.requests is not None:
        code = generate.main(["--out", str(output / "in"), "--requests", str(arguments.requests)])
        if code:
            return code
        config = output / "in" / "pipeline.toml"

    console = Console(highlight=False)
    console.print("[bold]sample-stitch[/] · joining on a mini-cluster in this machine", end="\n\n")
    code = join_samples.main(["--config", str(config), "--set", f"output.path={output}"])
    if code:
        return code
    print_summary(summarise(output), console, _read(config))
    console.print("\nwhat next", style="bold")
    shown = BUNDLED.parent.parent.relative_to(ROOT) / "README.md"
    console.print(f"  {shown}   what became of every line")
    console.print("  make demo ARGS='--requests 2000'   the same over generated traffic")
    console.print("  make test                          all tests")
    return 0


def _read(config: Path) -> dict[str, int]:
    """How many records there were to read, by stream; blank lines are none."""
    sources = load(config).sources
    counts: dict[str, int] = {}
    for stream in STREAMS:
        source = getattr(sources, stream)
        assert isinstance(source, FilesSource)
        lines = (line for file in find(stream, source.path) for line in file.open("rb"))
        counts[f"{stream} records"] = sum(not line.isspace() for line in lines)
    return counts


if __name__ == "__main__":
    sys.exit(main())
