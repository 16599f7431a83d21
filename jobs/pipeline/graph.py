"""The joining job as a function of its streams: the test and production run the same graph."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jobs.pipeline.config import Pipeline
from jobs.pipeline.sinks import write
from jobs.pipeline.sources import Events, read, with_time_kept
from udfs.core import join_batches
from udfs.core.join_batches import JoinBatches
from udfs.operators import batches
from udfs.operators.batches import Limits
from udfs.operators.side_outputs import SideOutput


@dataclass(frozen=True)
class Job:
    """A job that is built and does not run yet."""

    name: str
    env: Any

    def start(self) -> Any:
        """Submits it; a pyflink `JobClient`."""
        return self.env.execute_async(self.name)

    def explain(self) -> str:
        """Its operators, a line each: number, name, parallelism, and where its input comes from."""
        plan: dict[str, list[dict[str, Any]]] = json.loads(self.env.get_execution_plan())
        lines = []
        for node in plan["nodes"]:
            inputs = ", ".join(
                f"{p['id']} ({p['ship_strategy']})" for p in node.get("predecessors", ())
            )
            line = f"{node['id']:>4}  {node['type']}  x{node['parallelism']}"
            lines.append(f"{line}  <- {inputs}" if inputs else line)
        return "\n".join(lines)


def build(
    pipeline: Pipeline, env: Any, tables: Any, *, run: str | None = None, lasting: bool = False
) -> Job:
    """Sources, join and sinks. Raises ConfigError.

    `run`: a name for this start of the job (`runs.new_name`), which is in the names of its files.
    `lasting`: what a restored job has to find again is put beside its checkpoints.
    """
    events = read(pipeline, env, tables, lasting=lasting)
    write(pipeline, join(pipeline, events), events.rejected, run)
    return Job(pipeline.pipeline.name, env)


def join(pipeline: Pipeline, events: Events) -> Any:
    """The join operator over given streams; packed `wire.SampleRows` come out, and beside them
    `side_outputs.LATE_ACTIONS` and `side_outputs.REJECTED`.
    """
    silence = pipeline.label_silence
    host = JoinBatches(
        pipeline.rules,
        pipeline.schema,
        pipeline.negative_sampling,
        complete_until=pipeline.end_of_input.complete_until,
        silence_after=None if silence is None else int(silence.after),
        max_late_requests=pipeline.runtime.max_late_requests,
        sources=[named.key for named in pipeline.sources.each],
    )
    return batches.keyed(
        with_time_kept(events.keyed, silence, pipeline.sources),
        host,
        uid="join",
        # The names carry a version: another layout would get another name, and read these. The log
        # keeps its first name, since it is still read in the same way.
        entries="requests-v1",
        log="held-actions-v1",
        only_own_entry=pipeline.join.key == "request_id",
        counters=join_batches.counters(pipeline.rules),
        side=[SideOutput(table) for table in join_batches.SIDE_OUTPUTS],
        limits=Limits(int(pipeline.runtime.batch_delay)),
        # A request waits for at most this long: 64 steps of it are fine enough for people.
        deadline_span=max(1_000, pipeline.rules.deadline(0) // 64),
    )
