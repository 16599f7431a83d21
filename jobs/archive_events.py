"""Keeps the feature and the action topics as Parquet, every record once and byte for byte.

    python -m jobs.archive_events --config FILE [--set a.b=value ...]
    flink run -pyfs . -py jobs/archive_events.py --config FILE

Locally it runs on a mini-cluster inside this process and waits for the end of bounded input; with
`flink run` it submits to the cluster. What it keeps, and how to query it: docs/archive.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # as a script, which is how `flink run -py` starts it
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from configuration.command_line import Overrides, PipelineFile, run
from jobs.pipeline import archive, command
from jobs.pipeline.command import Append, Asked, Explain, Overwrite, Restore
from jobs.pipeline.program import Program


def keep(
    config: PipelineFile,
    overrides: Overrides = None,
    explain: Explain = False,
    restore: Restore = None,
    overwrite: Overwrite = False,
    append: Append = False,
) -> int:
    """Keep the feature and the action topics as Parquet, every record once and byte for byte.

    Runs on a mini-cluster inside this process, to the end of bounded input or until Ctrl-C or
    SIGTERM stops it with a savepoint. docs/archive.md describes what it keeps, docs/operations.md
    how to start, stop and go on, docs/configuration.md the file.

    Exit codes: 0 done, 1 the job failed, 2 the configuration, the set-up or the archive is not
    right and nothing was run, 130 stopped by Ctrl-C, 143 stopped by SIGTERM.
    """
    asked = Asked(config, tuple(overrides or ()), explain, restore, overwrite, append)
    return command.start(_PROGRAM, asked)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return run(keep, argv, _PROGRAM.name)


_PROGRAM = Program(
    name="archive_events",
    doing="archiving",
    makes="records",
    written=archive.WRITTEN,
    load=archive.load,
    document=archive.document,
    build=archive.build,
    report=archive.report,
    judges_times=False,
)

if __name__ == "__main__":
    command.leave(main())
