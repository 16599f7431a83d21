"""The joining job as a function of its streams: the test and production run the same graph."""

from __future__ import annotations

from typing import Any

from pyflink.common import Types

from jobs.pipeline.config import Pipeline
from jobs.pipeline.sinks import write
from jobs.pipeline.sources import Events, held_while_silent, read
from udfs.operators.join import JoinSamples


def build(pipeline: Pipeline, env: Any, tables: Any) -> Any:
    """Sources, join and sinks as a statement set that is not yet executed. Raises ConfigError."""
    events = read(pipeline, env, tables)
    return write(pipeline, join(pipeline, events), events.rejected, tables)


def join(pipeline: Pipeline, events: Events) -> Any:
    """The join operator over given streams; packed `wire.SampleRows` come out, and beside them
    `side_outputs.LATE_ACTIONS` and `side_outputs.REJECTED`.
    """
    silence = pipeline.label_silence
    function = JoinSamples(
        pipeline.rules,
        pipeline.schema,
        pipeline.negative_sampling,
        complete_until=pipeline.end_of_input.complete_until,
        silence_after=None if silence is None else int(silence.after),
        max_late_requests=pipeline.runtime.max_late_requests,
    )
    stream = events.keyed
    if silence is not None:
        stream = held_while_silent(stream, silence, pipeline.sources.actions)
    return stream.process(function, Types.PICKLED_BYTE_ARRAY()).name("join").uid("join")
