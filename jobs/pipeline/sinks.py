"""Where the rows go: Parquet by Flink's file sink, by hour of the event, `_SUCCESS`, compaction."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pyflink.java_gateway import get_gateway

from jobs.pipeline.config import OutputSection, Pipeline
from schemas import samples
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
        sql = table(name, columns, output, after_ms, compact=pipeline.compact)
        tables.execute_sql(sql)
    explode(pipeline, joined, tables, "samples", "sample_rows")
    tables.create_temporary_view(
        "late_rows", tables.from_data_stream(joined.get_side_output(side_outputs.late_actions()))
    )
    rejects = rejected.union(joined.get_side_output(side_outputs.rejected()))
    tables.create_temporary_view("rejected_rows", tables.from_data_stream(rejects))
    statements = tables.create_statement_set()
    statements.add_insert_sql("INSERT INTO samples SELECT * FROM sample_rows")
    statements.add_insert_sql(
        "INSERT INTO late_actions SELECT sample_id, request_id, user_id, item_id,"
        " CAST(`position` AS INT), request_time, event_id, `action`, `value`, event_time,"
        " delay_ms, reason, features, dt, hr FROM late_rows"
    )
    statements.add_insert_sql(
        "INSERT INTO rejected SELECT `stream`, reason, message, origin, CAST(part AS INT), off,"
        " `record_time`, ENCODE(`raw`, 'ISO-8859-1'), dt, hr FROM rejected_rows"
    )
    return statements


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
    listed = ", ".join(f"'{key}' = '{value}'" for key, value in options.items())
    return (
        f"CREATE TEMPORARY TABLE {name} ({samples.sql_columns(schema)}, dt STRING, hr STRING) "
        f"PARTITIONED BY (dt, hr) WITH ({listed})"
    )
