"""What the commands over a pipeline have in common."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """`--config FILE` and `--set a.b=value`, for `jobs.config.load`."""
    parser.add_argument("--config", type=Path, required=True, help="the pipeline, a TOML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=value", help="over the file; repeatable"
    )
