"""Gives the Iceberg table over an output the generations that are published (docs/iceberg.md).

    python -m jobs.backfill.iceberg --config FILE

The backfill starts it when its pointer is put. `udfs/jvm/IcebergTable.java` does the work: one
snapshot has all files of the period for those before. Done before, it does nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from configuration.command_line import Overrides, PipelineFile, run
from configuration.stores import Folder
from jobs.backfill import joining
from jobs.backfill.work import Work
from jobs.pipeline import environment
from jobs.pipeline.config import ConfigError, Pipeline, load
from schemas.samples import ICEBERG_TABLE


def check(pipeline: Pipeline, output: Folder) -> None:
    """Raises ConfigError if there is a table to follow the backfill, and not what that takes."""
    if _has_table(pipeline, output):
        if not isinstance(output, Path):
            raise ConfigError(
                f"output.table: {output / ICEBERG_TABLE} is an Iceberg table, which does not follow"
                " a backfill on s3://; mount the bucket, or switch output.table off and delete it"
            )
        try:
            environment.jars("iceberg")
        except environment.SetupError as error:
            raise ConfigError(f"output.table: {error}") from None


def follow(
    config: Path, overrides: Sequence[str], pipeline: Pipeline, output: Folder, planned: Work
) -> None:
    """The table has what is published when this returns. Raises JoinError."""
    if isinstance(output, Path) and _has_table(pipeline, output):
        log = output / f"{planned.folder}.iceberg.log"
        joining.apart("jobs.backfill.iceberg", config, overrides, (), log)


def _has_table(pipeline: Pipeline, output: Folder) -> bool:
    """A job makes one that is not there yet, with the generations that are."""
    return pipeline.output.table == "iceberg" and (output / ICEBERG_TABLE / "metadata").is_dir()


def open_table(config: PipelineFile, overrides: Overrides = None) -> int:
    """Open the table over the output, as the job does at its start. Exit code 0 when it is done."""
    pipeline = load(config, tuple(overrides or ()))
    output = Path(pipeline.output.path).absolute()
    environment.prepare_process(output / "_logs" / "backfill-iceberg", iceberg=True)
    from jobs.pipeline import sinks
    from schemas import samples
    from udfs.operators import jvm

    columns = sinks.with_partitions(samples.samples(pipeline.schema, pipeline.kinds))
    needs = ["FileListener", "IcebergTable", "ParquetFiles", "ParquetRows"]
    jvm.call("OpenTable", "open", needs, str(output / "samples"), sinks.row_type(columns))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return run(open_table, argv, "python -m jobs.backfill.iceberg")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
