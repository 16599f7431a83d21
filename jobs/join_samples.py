"""Joins a feature stream with an action stream into labelled samples.

    python -m jobs.join_samples --config FILE [--set a.b=value ...]
    flink run -pyfs . -py jobs/join_samples.py --config FILE

Locally it runs on a mini-cluster inside this process and waits for the end of bounded input; with
`flink run` it submits to the cluster. Starting, stopping and going on: docs/operations.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # as a script, which is how `flink run -py` starts it
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from configuration.command_line import Overrides, PipelineFile, run
from jobs.pipeline import command, output_guard, run_report
from jobs.pipeline.command import Append, Asked, Explain, Overwrite, Restore
from jobs.pipeline.config import document, load
from jobs.pipeline.program import Program


def join(
    config: PipelineFile,
    overrides: Overrides = None,
    explain: Explain = False,
    restore: Restore = None,
    overwrite: Overwrite = False,
    append: Append = False,
) -> int:
    """Join a feature stream with an action stream into labelled samples.

    Runs on a mini-cluster inside this process, to the end of bounded input or until Ctrl-C or
    SIGTERM stops it with a savepoint. docs/operations.md describes how to start, stop and go on,
    docs/configuration.md the file.

    Exit codes: 0 done, 1 the job failed, 2 the configuration, the set-up or the output is not right
    and nothing was run, 3 the input was joined but too many of its records were rejected,
    130 stopped by Ctrl-C, 143 stopped by SIGTERM.
    """
    asked = Asked(config, tuple(overrides or ()), explain, restore, overwrite, append)
    return command.start(PROGRAM, asked)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return run(join, argv, PROGRAM.name)


def _build(*arguments: Any, **options: Any) -> Any:
    from jobs.pipeline import graph  # which imports pyflink

    return graph.build(*arguments, **options)


#: What the command runs.
PROGRAM = Program(
    name="join_samples",
    doing="joining",
    makes="samples",
    written=output_guard.JOINED,
    load=load,
    document=document,
    build=_build,
    report=run_report.of_join,
)

if __name__ == "__main__":
    command.leave(main())
