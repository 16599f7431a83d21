"""The joining job as a function of its streams: the test and production run the same graph."""

from __future__ import annotations

from typing import Any

from pyflink.common import Types

from jobs.config import Pipeline
from jobs.sinks import write
from jobs.sources import Events, read
from udfs import wire
from udfs.join_function import JoinSamples


def build(pipeline: Pipeline, env: Any, tables: Any) -> Any:
    """Sources, join and sinks as a statement set that is not yet executed. Raises ConfigError."""
    events = read(pipeline, env, tables)
    return write(pipeline, join(pipeline, events), events.rejected, tables)


def join(pipeline: Pipeline, events: Events) -> Any:
    """The join operator over given streams; rows of `wire.joined_columns` come out."""
    function = JoinSamples(
        pipeline.rules,
        pipeline.schema,
        pipeline.end_of_input.immature,
        pipeline.end_of_input.complete_until,
    )
    return events.keyed.process(function, joined_type(pipeline)).name("join").uid("join")


def joined_type(pipeline: Pipeline) -> Any:
    """The Flink type of the join's output."""
    flat = {
        "string": Types.STRING(),
        "long": Types.LONG(),
        "double": Types.DOUBLE(),
        "boolean": Types.BOOLEAN(),
    }
    names, types = [], []
    for column in wire.joined_columns(pipeline.schema, pipeline.kinds):
        type_info = flat[column.flat]
        for _ in range(column.depth):
            type_info = Types.OBJECT_ARRAY(type_info)
        names.append(column.name)
        types.append(type_info)
    return Types.ROW_NAMED(names, types)
