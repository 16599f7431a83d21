"""The job's own graph over scripted streams: events and watermarks in exactly a given order.

    python -m tests.flink.timeline_job FOLDER ...

Each folder has a `pipeline.toml` and a `script.jsonl`, and gets an `out`; one job after the other.
A script has a line a record: key, packed event (base64), and the time whose watermark follows.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jobs.pipeline import environment
from jobs.pipeline.config import load
from schemas import sql


def main(folders: Sequence[Path]) -> None:
    environment.prepare_process(folders[0] / "out" / "_logs")
    for folder in folders:
        run(folder)


def run(folder: Path) -> None:
    pipeline = load(folder / "pipeline.toml", [f"output.path={folder / 'out'}"])
    from pyflink.common import Row
    from pyflink.datastream import ProcessFunction

    from jobs.pipeline import graph, sinks, sources
    from udfs.operators import side_outputs

    class Say(ProcessFunction):
        def process_element(self, value: Any, ctx: Any) -> Iterator[Any]:
            line = msgspec.json.decode(value[0])
            yield Row(line["key"], base64.b64decode(line["event"]), line["clock"])

    env, tables = environment.stream_environment(pipeline)
    tables.execute_sql(
        "CREATE TEMPORARY TABLE script (v STRING) WITH ("
        + sql.options(
            {"connector": "filesystem", "path": str(folder / "script.jsonl"), "format": "raw"}
        )
        + ")"
    )
    said = tables.to_data_stream(tables.sql_query("SELECT v FROM script")).process(
        Say(), sources.clocked_type()
    )
    rejected = said.get_side_output(side_outputs.REJECTED.tag())
    stream = sources.Events(sources.keyed_in_order(said), rejected)
    sinks.write(pipeline, graph.join(pipeline, stream), rejected)
    graph.Job("timeline", env).start().get_job_execution_result().result()


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
