"""The job's own graph over scripted streams: events and watermarks in exactly a given order.

    python -m tests.flink.timeline_job FOLDER ...

Each folder has a `pipeline.toml` and a `script.jsonl`, and gets an `out`; one job after the other.
A script has a line a record: key, packed event (base64), and the time whose watermark follows.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from jobs.pipeline import environment
from jobs.pipeline.config import load
from schemas import sql


class Say:
    """Says what the lines of a script say; a host of `udfs/jvm/RecordBatches.java`."""

    def open(self) -> None:
        self._lines = msgspec.msgpack.Decoder(list[tuple[str]]).decode

    def run(self, batch: bytes) -> bytes:
        said = []
        for (text,) in self._lines(batch):
            line = msgspec.json.decode(text)
            event = msgspec.Raw(base64.b64decode(line["event"]))
            said.append((line["key"], event, line["clock"]))
        return msgspec.msgpack.encode((False, said, ((), (), ())))


def main(folders: Sequence[Path]) -> None:
    environment.prepare_process(folders[0] / "out" / "_logs")
    for folder in folders:
        run(folder)


def run(folder: Path) -> None:
    pipeline = load(folder / "pipeline.toml", [f"output.path={folder / 'out'}"])
    from jobs.pipeline import graph, sinks, sources
    from udfs.operators import batches, side_outputs

    env, tables = environment.stream_environment(pipeline)
    tables.execute_sql(
        "CREATE TEMPORARY TABLE script (v STRING) WITH ("
        + sql.options(
            {"connector": "filesystem", "path": str(folder / "script.jsonl"), "format": "raw"}
        )
        + ")"
    )
    said = batches.records(
        batches.rows_of(tables, "SELECT v FROM script", name="script"),
        Say(),
        uid="say",
        columns="s",
        by_clock=True,
        counters=["said"],
        side=[side_outputs.REJECTED],
        limits=batches.Limits(),
        parallelism=1,
    )
    rejected = said.get_side_output(side_outputs.REJECTED.tag())
    stream = sources.Events(sources.keyed(said), rejected)
    sinks.write(pipeline, graph.join(pipeline, stream), rejected)
    graph.Job("timeline", env).start().get_job_execution_result().result()


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
