"""The archiving job: a stream's topics as Parquet, every record whole, whatever is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table as Grid

from jobs.pipeline import config
from jobs.pipeline.config import (
    ArchiveSection,
    ArchiveSource,
    ConfigError,
    KafkaSource,
    NamedSource,
    OutputSection,
    Pipeline,
)
from jobs.pipeline.output_guard import Written
from jobs.pipeline.run_report import Judgement, Report
from schemas import archive
from schemas.events import EARLIEST_TIME, LATEST_TIME, STREAMS

WRITTEN = Written(
    "archive",
    "archive.path",
    STREAMS,
    again="topics that were not archived before",
    by_source=True,
)


def load(path: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """The pipeline of the archiving job: that of the file, with the archive as its output.

    Raises ConfigError.
    """
    pipeline = config.load(path, overrides)
    section = pipeline.archive
    if section is None:
        raise ConfigError(f"{path}: archive: this section is required, with the key path")
    return msgspec.structs.replace(
        pipeline,
        pipeline=msgspec.structs.replace(
            pipeline.pipeline, name=f"{pipeline.pipeline.name}-archive"
        ),
        sources=pipeline.sources.map(lambda named: _source(named, section)),
        output=OutputSection(
            path=section.path,
            compression=section.compression,
            compact=section.compact,
            target_file_size=section.target_file_size,
        ),
    )


def replayed(pipeline: Pipeline, begin: str | None = None, end: str | None = None) -> Pipeline:
    """The pipeline of a join over Kafka, with its archive as the source: to join again.

    What decides whether a record is good or late is as it was. `begin`, `end`: hours of record
    timestamps (UTC) such as `2026-11-01T00`, the end not included; without both, all there is.
    Raises ConfigError.
    """
    section = pipeline.archive
    if section is None:
        raise ConfigError("archive: this section is required, with the key path")

    def of(named: NamedSource) -> ArchiveSource:
        source = named.source
        if not isinstance(source, KafkaSource):
            raise ConfigError(f"sources.{named.key}.type: only topics are archived")
        kept = ArchiveSource(
            path=section.path,
            format=source.format,
            from_=begin,
            to=end,
            out_of_orderness=source.out_of_orderness,
            max_future=source.max_future,
            max_record_bytes=source.max_record_bytes,
        )
        config.check_range(
            f"sources.{named.key}", kept, lambda key, text: ConfigError(f"{key}: {text}")
        )
        return kept

    return msgspec.structs.replace(pipeline, sources=pipeline.sources.map(of))


def document(path: Path, overrides: Sequence[str] = ()) -> dict[str, object]:
    """The configuration as it lies beside the archive, see `config.document`."""
    return config.document(path, overrides, beside="archive")


def build(
    pipeline: Pipeline, env: Any, tables: Any, *, run: str | None = None, lasting: bool = False
) -> Any:
    """The job, a `graph.Job`, of a pipeline that `load` gave. `lasting` changes nothing here.

    `run`: a name for this start of the job (`runs.new_name`). Raises ConfigError.
    """
    from jobs.pipeline import graph, kafka_source, runs, sinks, sources
    from udfs.core import archive_batches
    from udfs.operators import batches
    from udfs.operators.batches import Limits

    assert pipeline.archive is not None
    run = run or runs.new_name()
    of_source = sinks.type_info(sinks.row_type(archive.RECORD))
    settings = sources.decode_settings(pipeline, beacon_keys=())
    for named in pipeline.sources.each:
        source = named.source
        assert isinstance(source, KafkaSource)
        table = sinks.Table(
            named.id, archive.ARCHIVE, sinks.HOUR_MS + int(pipeline.archive.complete_after)
        )
        of_rows = sinks.type_info(table.row_type)
        rows = batches.whole_records(
            kafka_source.records(named.id, source, env, of_source),
            archive_batches.ReadRecords(settings.of(named.key), named.stream),
            of_rows,
            uid=f"read-{named.id}",
            counters=archive_batches.counters(named.stream),
            limits=Limits(int(pipeline.runtime.batch_delay)),
            times=(EARLIEST_TIME, LATEST_TIME),
        )
        rows = kafka_source.after_new_partitions(rows, named.id, source, of_rows)
        table.write(rows, pipeline.output, run, compact=pipeline.compact)
    return graph.Job(pipeline.pipeline.name, env)


def report(pipeline: Pipeline, accumulators: Mapping[str, int], restored: bool) -> Report:
    """How many records were archived, and how many of them the join would reject, by reason."""
    grid, found = Grid.grid(padding=(0, 2)), Judgement()
    grid.add_column()
    grid.add_column()
    grid.add_column(justify="right")
    for stream in STREAMS:
        archived = accumulators.get(f"{stream}_archived", 0)
        begin = f"unusable/{stream}/"
        reasons = {
            name.removeprefix(begin): count
            for name, count in accumulators.items()
            if name.startswith(begin) and count
        }
        grid.add_row(stream, "archived", f"{archived:,}")
        grid.add_row("", "of these, unusable", f"{sum(reasons.values()):,}")
        for reason, count in sorted(reasons.items(), key=lambda one: (-one[1], one[0])):
            grid.add_row("", f"  {reason}", f"{count:,}")
        if not archived and not restored:
            found.warnings.append(f"no {stream} were read")
    return Report(grid, found)


def _source(named: NamedSource, section: ArchiveSection) -> KafkaSource:
    source = named.source
    if not isinstance(source, KafkaSource):
        raise ConfigError(f"sources.{named.key}.type: only Kafka is archived")
    if section.group_id is not None:
        return msgspec.structs.replace(source, group_id=section.group_id)
    group = None if source.group_id is None else f"{source.group_id}-archive"
    return msgspec.structs.replace(source, group_id=group)
