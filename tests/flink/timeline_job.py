"""The job's own graph over a scripted stream: events and watermarks in exactly a given order.

    python -m tests.flink.timeline_job SCRIPT OUTPUT CONFIG

A script has a line a record: key, packed event (base64), and the time whose watermark follows.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from jobs import environment
from jobs.config import load


def main(script: Path, output: Path, config: Path) -> None:
    pipeline = load(config, [f"output.path={output}"])
    environment.prepare_process(output / "_logs")
    from pyflink.common import Row, Types
    from pyflink.datastream import OutputTag, ProcessFunction

    from jobs import graph, sinks, sources
    from udfs.decode_function import REJECTED_TAG, rejected_type

    class Say(ProcessFunction):
        def process_element(self, value: Any, ctx: Any) -> Iterator[Any]:
            line = msgspec.json.decode(value[0])
            yield Row(line["key"], base64.b64decode(line["event"]), line["clock"])

    _, tables = environment.stream_environment(pipeline)
    tables.execute_sql(
        "CREATE TEMPORARY TABLE script (v STRING) WITH ('connector' = 'filesystem', "
        f"'path' = '{script.as_uri()}', 'format' = 'raw')"
    )
    said = tables.to_data_stream(tables.sql_query("SELECT v FROM script")).process(
        Say(),
        Types.ROW_NAMED(
            ["key", "event", "clock"], [Types.STRING(), Types.PICKLED_BYTE_ARRAY(), Types.LONG()]
        ),
    )
    events = sources.with_watermarks(
        said, "clock", "`key`, event", sources.keyed_type(), "said", tables
    )
    rejected = said.get_side_output(OutputTag(REJECTED_TAG, rejected_type()))
    stream = sources.Events(sources.keyed(events), rejected)
    statements = sinks.write(pipeline, graph.join(pipeline, stream), rejected, tables)
    statements.execute().wait()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
