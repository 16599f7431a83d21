"""Where the rows go: Parquet by Flink's file sink, by hour of the event, `_SUCCESS`, compaction."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pyflink.java_gateway import get_gateway

from jobs.pipeline.config import OutputSection, Pipeline
from schemas import samples, sql
from udfs.core import wire
from udfs.operators import jvm as jvm_operators
from udfs.operators import side_outputs

_HOUR_MS = 3_600_000


def write(pipeline: Pipeline, joined: Any, rejected: Any, tables: Any) -> Any:
    """The statement set that writes the join's rows and the decoders' rejects; not yet executed."""
    rules = pipeline.rules
    # a row leaves its hour behind by what it waited for
    settled = rules.deadline(0)
    forgotten = rules.forget_time(settled)
    output = pipeline.output
    schema = samples.samples(pipeline.schema, pipeline.kinds)
    for name, columns, after_ms in (
        ("samples", schema, settled),
        ("late_actions", samples.LATE_ACTIONS, forgotten),
        ("rejected", samples.REJECTED, forgotten),
    ):
        tables.execute_sql(table(name, columns, output, after_ms, compact=pipeline.compact))
    explode(pipeline, joined, tables, "samples", "sample_rows")
    rejects = rejected.union(joined.get_side_output(side_outputs.REJECTED.tag()))
    late = joined.get_side_output(side_outputs.LATE_ACTIONS.tag())
    statements = tables.create_statement_set()
    statements.add_insert_sql("INSERT INTO samples SELECT * FROM sample_rows")
    for name, stream, side_output in (
        ("late_actions", late, side_outputs.LATE_ACTIONS),
        ("rejected", rejects, side_outputs.REJECTED),
    ):
        tables.create_temporary_view(f"{name}_rows", tables.from_data_stream(stream))
        statements.add_insert_sql(
            f"INSERT INTO {name} SELECT {_converted(side_output.schema)}, dt, hr FROM {name}_rows"
        )
    return statements


def _converted(schema: pa.Schema) -> str:
    """The columns of a side output as SQL expressions of the types that the table declares."""
    return ", ".join(
        f"ENCODE(`{field.name}`, 'ISO-8859-1')"
        if pa.types.is_binary(field.type)
        else f"CAST(`{field.name}` AS {samples.sql_type(field.type)})"
        for field in schema
    )


def explode(pipeline: Pipeline, joined: Any, tables: Any, sink: str, view: str) -> None:
    """Make `view`: a row for each impression, as the table `sink` has them."""
    row_type = (
        tables.from_path(sink)._j_table.getResolvedSchema().toPhysicalRowDataType().getLogicalType()
    )
    type_info = get_gateway().jvm.org.apache.flink.table.runtime.typeutils.InternalTypeInfo
    rows = jvm_operators.transform(
        joined,
        "ExplodeSamples",
        type_info.of(row_type),
        wire.sample_layout(pipeline.schema, pipeline.kinds),
        uid="explode-samples",
    )
    tables.create_temporary_view(view, tables.from_data_stream(rows))


def table(
    name: str, schema: pa.Schema, output: OutputSection, settles_after_ms: int, *, compact: bool
) -> str:
    """`settles_after_ms`: how far behind its hour the watermark is when nothing more comes."""
    options = {
        "connector": "filesystem",
        "path": f"{output.path}/{name}",
        "format": "parquet",
        "parquet.compression": output.compression,
        "parquet.utc-timezone": "true",
        "sink.partition-commit.trigger": "partition-time",
        "sink.partition-commit.delay": f"{_HOUR_MS + settles_after_ms} ms",
        "sink.partition-commit.policy.kind": "success-file",
        "sink.partition-commit.watermark-time-zone": "UTC",
        "partition.time-extractor.timestamp-pattern": "$dt $hr:00:00",
        "auto-compaction": str(compact).lower(),
        "compaction.file-size": output.target_file_size,
        "sink.rolling-policy.file-size": output.target_file_size,
    }
    return (
        f"CREATE TEMPORARY TABLE {name} ({samples.sql_columns(schema)}, dt STRING, hr STRING) "
        f"PARTITIONED BY (dt, hr) WITH ({sql.options(options)})"
    )
