"""Where the rows go: Parquet by Flink's file sink, by hour of the event, `_SUCCESS`, compaction."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from jobs.config import OutputSection, Pipeline
from schemas import samples
from schemas.actions import ActionKind
from udfs import wire

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
    tables.create_temporary_view("joined", tables.from_data_stream(joined))
    tables.create_temporary_view("undecoded", tables.from_data_stream(rejected))
    statements = tables.create_statement_set()
    for sql in (select_samples(pipeline), _LATE, _REJECTED):
        statements.add_insert_sql(sql)
    return statements


def select_samples(pipeline: Pipeline, sink: str = "samples") -> str:
    """The statement that explodes requests to impressions, on the JVM."""
    columns = ["sample_ids[p]", "request_id", "user_id", "item", "CAST(p - 1 AS INT)", "event_time"]
    context = {f.name: f"c{i}" for i, f in enumerate(pipeline.schema.scoped("context"))}
    items = {f.name: f"f{i}[p]" for i, f in enumerate(pipeline.schema.scoped("item"))}
    for feature in pipeline.schema.features:
        column = (context | items)[feature.name]
        if feature.type.is_list:
            present = column.replace("[p]", "_is[p]") if "[p]" in column else f"{column}_is"
            column = f"CASE WHEN {present} THEN {column} END"
        if feature.type.scalar == "float32":
            column = f"CAST({column} AS {samples.sql_type(feature.type.arrow)})"
        columns.append(column)
    for i, kind in enumerate(pipeline.kinds):
        columns += [_label(i, kind), f"delay{i}[p]", f"mature{i}"]
    columns += ["CAST(NULL AS BOOLEAN)", "CAST(1 AS DOUBLE)", "0", "'final'", "dt", "hr"]
    return (
        f"INSERT INTO {sink} SELECT {', '.join(columns)} FROM joined "
        "CROSS JOIN UNNEST(items) WITH ORDINALITY AS x(item, p) "
        f"WHERE tag = {wire.SAMPLES}"
    )


def _label(i: int, kind: ActionKind) -> str:
    # the arrays of a kind without any action are empty, and an element beyond the end is null
    column = f"label{i}[p]"
    if kind.label in ("max", "last"):
        return column
    return f"CAST(COALESCE({column}, 0) AS {samples.sql_type(kind.arrow)})"


def _side(schema: pa.Schema) -> str:
    columns = []
    for i, field in enumerate(schema, 1):
        if pa.types.is_binary(field.type):
            columns.append(f"ENCODE(side[{i}], 'ISO-8859-1')")
        else:
            columns.append(f"CAST(side[{i}] AS {samples.sql_type(field.type)})")
    return ", ".join(columns)


_LATE = (
    f"INSERT INTO late_actions SELECT {_side(samples.LATE_ACTIONS)}, dt, hr "
    f"FROM joined WHERE tag = {wire.LATE}"
)
_REJECTED = (
    f"INSERT INTO rejected SELECT {_side(samples.REJECTED)}, dt, hr "
    f"FROM joined WHERE tag = {wire.REJECTED} UNION ALL "
    "SELECT `stream`, reason, message, origin, CAST(part AS INT), off, `record_time`, "
    "ENCODE(`raw`, 'ISO-8859-1'), dt, hr FROM undecoded"
)


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
