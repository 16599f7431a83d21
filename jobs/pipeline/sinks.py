"""Where the rows go: Parquet files by hour of the event, compaction, `_SUCCESS`.

Flink's file sink for tables is not used: it makes the last files visible at the end of the input,
before a checkpoint has their rows behind it, and a failure in between would write them twice.
Through a table the watermark would be lost, without which no hour is ever complete; files would
have no suffix; and `output.compact` could not change over a savepoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyflink.common import Types
from pyflink.datastream import DataStream
from pyflink.java_gateway import get_gateway
from pyflink.util.exceptions import JavaException

from jobs.pipeline import runs
from jobs.pipeline.config import ConfigError, OutputSection, Pipeline
from schemas import samples
from udfs.core import wire
from udfs.operators import jvm as jvm_operators
from udfs.operators import side_outputs

HOUR_MS = 3_600_000


def write(pipeline: Pipeline, joined: Any, rejected: Any, run: str | None = None) -> None:
    """Add to the job what writes the join's rows and the decoders' rejects. Raises ConfigError.

    `run` names this start of the job in the names of its files (`runs.new_name`, the default).
    """
    run = run or runs.new_name()
    rules = pipeline.rules
    # a row leaves its hour behind by what it waited for
    settled = rules.deadline(0)
    forgotten = rules.forget_time(settled)
    late = joined.get_side_output(side_outputs.LATE_ACTIONS.tag())
    rejects = rejected.union(joined.get_side_output(side_outputs.REJECTED.tag()))
    of_samples = Table(
        "samples",
        samples.samples(pipeline.schema, pipeline.kinds),
        HOUR_MS + settled,
        "IcebergTable" if pipeline.output.table == "iceberg" else None,
    )
    of_late = Table("late_actions", samples.LATE_ACTIONS, HOUR_MS + forgotten)
    of_rejected = Table("rejected", samples.REJECTED, HOUR_MS + forgotten)
    of_samples.write(exploded(pipeline, joined), pipeline.output, run, compact=pipeline.compact)
    for table, stream in ((of_late, late), (of_rejected, rejects)):
        rows = jvm_operators.transform(
            stream,
            "ToRows",
            type_info(table.row_type),
            " ".join(_sql_types(with_partitions(table.schema))),
            uid=f"{_words(table.name)}-to-rows",
        )
        table.write(rows, pipeline.output, run, compact=pipeline.compact)


def exploded(pipeline: Pipeline, joined: Any, *, uid: str = "explode-samples") -> DataStream:
    """Packed samples as rows of `samples/` in Flink's internal format, one for each impression."""
    return jvm_operators.transform(
        joined,
        "ExplodeSamples",
        type_info(row_type(with_partitions(samples.samples(pipeline.schema, pipeline.kinds)))),
        wire.sample_layout(pipeline.schema, pipeline.kinds),
        uid=uid,
        needs=["Packed"],
        own_thread=pipeline.runtime.separate_sink,
    )


@dataclass(frozen=True)
class Table:
    """A table of the output. `commit_delay_ms`: how far the watermark is behind the beginning of an
    hour when no more rows of it come. `listener`: the class of `udfs/jvm/` that is told of files
    when they are visible (`FileListener`), if there is one.
    """

    name: str
    schema: pa.Schema
    commit_delay_ms: int
    listener: str | None = None

    @property
    def row_type(self) -> Any:
        """Flink's type of a row, with the columns in the order of the schema."""
        return row_type(with_partitions(self.schema))

    def write(self, rows: DataStream, output: OutputSection, run: str, *, compact: bool) -> None:
        """Add the operators that write `rows` (internal rows with `dt` and `hr` at their end)."""
        size = str(_bytes(output.target_file_size))
        files = (
            f"{output.path}/{self.name}",
            run,
            str(compact).lower(),
            size,
            output.compression,
            self.row_type,
            str(len(samples.PARTITIONS)),
        )
        name = _words(self.name)
        messages = _message_type()
        needs = ["ParquetFiles", "ParquetRows", "Moment"]
        # The uids are not those of the operators before 2026-11: their state would be passed over,
        # and with it the files that were not visible yet.
        parts = jvm_operators.transform(
            rows, "WriteFiles", messages, *files, uid=f"{name}-write-files", needs=needs
        )
        units = jvm_operators.transform(
            parts, "PlanFiles", messages, size, uid=f"{name}-plan-files", parallelism=1, needs=needs
        )
        made = jvm_operators.transform(
            units.rebalance(),
            "CompactFiles",
            messages,
            *files,
            uid=f"{name}-compact-files",
            needs=needs,
        )
        listeners = [self.listener] if self.listener else []
        jvm_operators.transform(
            made,
            "CommitFiles",
            messages,  # none comes out
            *files,
            self.listener or "",
            str(self.commit_delay_ms),
            uid=f"{name}-commit-files",
            parallelism=1,
            needs=[*needs, "FileListener", *listeners],
        )


def _words(name: str) -> str:
    return name.replace("_", "-")


def with_partitions(schema: pa.Schema) -> pa.Schema:
    """The columns of a table, then those of its partition."""
    return pa.schema([*schema, *((name, pa.string()) for name in samples.PARTITIONS)])


def _sql_types(schema: pa.Schema) -> list[str]:
    return [samples.sql_type(field.type) for field in schema]


def row_type(schema: pa.Schema) -> Any:
    """Flink's RowType with these columns."""
    gateway = get_gateway()
    logical = gateway.jvm.org.apache.flink.table.types.logical
    loader = gateway.jvm.java.lang.Thread.currentThread().getContextClassLoader()
    types = _sql_types(schema)
    of_names = gateway.new_array(gateway.jvm.java.lang.String, len(types))
    of_types = gateway.new_array(logical.LogicalType, len(types))
    for i, (name, sql_type) in enumerate(zip(schema.names, types, strict=True)):
        of_names[i] = name
        of_types[i] = logical.utils.LogicalTypeParser.parse(sql_type, loader)
    return logical.RowType.of(of_types, of_names)


def type_info(row_type: Any) -> Any:
    """Flink's type of internal rows, of their RowType."""
    return get_gateway().jvm.org.apache.flink.table.runtime.typeutils.InternalTypeInfo.of(row_type)


def _message_type() -> Any:
    """The type of what the operators tell each other of files: see `ParquetFiles.java`."""
    text, number = Types.STRING(), Types.LONG()
    data, texts = Types.PRIMITIVE_ARRAY(Types.BYTE()), Types.BASIC_ARRAY(Types.STRING())
    return Types.ROW([text, text, number, data, texts]).get_java_type_info()


def _bytes(size: str) -> int:
    try:
        memory = get_gateway().jvm.org.apache.flink.configuration.MemorySize.parse(size)
    except JavaException:
        raise ConfigError(
            f"output.target_file_size: expected a size like '128MB', found {size!r}"
        ) from None
    return int(memory.getBytes())
