"""Realistic traffic from a seed, with the truth about it: `sample-stitch generate --out DIR`.

Writes, ready for ``sample-stitch join --config DIR/pipeline.toml``::

    features/*.jsonl  actions/*.jsonl   the two logs, in the order of receipt by a collector
    pipeline.toml                       keys, windows, features, sources
    truth/impressions.parquet           per impression and kind: label, delay, value, with infinite
                                        patience (no window, no end of the log)
    truth/actions.parquet               per action: the impression that caused it, and whether the
                                        log reaches far enough to have it
    truth/records.parquet               per written line: good, duplicate or bad (with the reason),
                                        and how far it is behind the stream (ms)
    truth/parameters.json               the distributions below, with their parameters
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import Progress

from configuration.command_line import run
from tools.generate.model import Traffic
from tools.generate.traffic import generate


def make(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new or empty folder.")],
    requests: Annotated[int, typer.Option(help="Number of requests.")] = 10_000,
    items: Annotated[int, typer.Option(help="Items per request.")] = 20,
    features: Annotated[int, typer.Option(help="Features per item.")] = 8,
    seed: Annotated[int, typer.Option(help="The same seed gives the same traffic.")] = 0,
    key: Annotated[
        Literal["request_id", "user_id"], typer.Option(help="The id that actions carry.")
    ] = "request_id",
    hours: Annotated[float, typer.Option(help="Length of the logs, in hours.")] = 12.0,
    users: Annotated[int, typer.Option(help="Number of users.")] = 5_000,
    catalogue: Annotated[int, typer.Option(help="Number of items.")] = 10_000,
    bad_share: Annotated[float, typer.Option(help="Share of broken records.")] = 0.002,
    duplicate_share: Annotated[float, typer.Option(help="Share of repeated records.")] = 0.01,
    late_share: Annotated[
        float, typer.Option(help="Share of records later than --disorder-ms.")
    ] = 0.002,
    disorder_ms: Annotated[
        int, typer.Option(help="How far out of order all other records are.")
    ] = 2_000,
) -> int:
    """Generate realistic traffic: two event logs, a pipeline.toml, and the truth about the labels.

    Exit codes: 0 written, 2 an option or the folder cannot be used.
    """
    code = write(
        out,
        requests=requests,
        items=items,
        features=features,
        seed=seed,
        key=key,
        hours=hours,
        users=users,
        catalogue=catalogue,
        bad_share=bad_share,
        duplicate_share=duplicate_share,
        late_share=late_share,
        disorder_ms=disorder_ms,
    )
    if code == 0:
        Console(stderr=True).print(
            f"now: sample-stitch join --config {out / 'pipeline.toml'}",
            markup=False,
            soft_wrap=True,
        )
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run(make, argv, "python -m tools.generate")


def write(out: Path, **options: Any) -> int:
    """`generate` for a person: `options` are those of `Traffic`. Exit codes as those of `main`."""
    console = Console(stderr=True)
    try:
        traffic = Traffic(**options)
        if out.exists() and any(out.iterdir()):
            raise FileExistsError(f"{out} is not empty: give a new directory")
        with Progress(console=console) as bar:
            task = bar.add_task("requests", total=traffic.requests)
            counts = generate(traffic, out, lambda n: bar.advance(task, n))
    except (ValueError, OSError) as error:
        console.print(f"cannot generate: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    for stream, sorts in counts.items():
        text = ", ".join(f"{sorts[what]:,} {what}" for what in ("good", "duplicate", "bad"))
        console.print(f"{stream}: {text}", markup=False)
    return 0
