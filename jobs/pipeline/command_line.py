"""What the commands over a pipeline have in common."""

from __future__ import annotations

import argparse

from configuration.reading import add_arguments


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """`--config FILE` and `--set a.b=value`, for `jobs.pipeline.config.load`."""
    add_arguments(parser, "the pipeline")
