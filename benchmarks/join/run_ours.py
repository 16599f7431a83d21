"""One run of the joining job: ``python -m benchmarks.join.run_ours SPEC``; the last line is a JSON.

The whole job is what ``python -m jobs.join_samples`` runs. The join alone is the same operator and
the same explosion into impressions, between a source that makes packed events and a blackhole.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.join import on_cluster
from benchmarks.join.data import feature_names, number_folder
from benchmarks.join.flink_options import flink_options
from benchmarks.join.spec import DISORDER_MS, ITEMS, PAYLOAD_BYTES, START_MS, Spec
from benchmarks.join.sql_plans import CLICK_AFTER_MS, CLICK_POSITION
from jobs.pipeline import environment
from jobs.pipeline.config import Pipeline, load
from jobs.pipeline.file_plan import of_pipeline
from schemas import samples, sql
from schemas.events import ActionEvent, Origin, RequestBody, RequestEvent

#: Requests that the source of the join alone makes from one row.
BATCH = 250


def run(spec: Spec) -> float:
    """Run to the end of the input; returns Flink's net runtime in seconds.

    With a parallelism above 1, and not yet inside `flink run`, on a cluster of its own.
    """
    if spec.parallelism > 1 and not environment.submitted():
        return on_cluster.run(spec, Path(__file__))
    scratch = Path(spec.scratch)
    config = scratch / "pipeline.toml"
    config.write_text(pipeline_toml(spec))
    pipeline = load(config)
    if not environment.submitted():
        environment.prepare_process(scratch / "logs")
    from jobs.pipeline import graph

    env, tables = environment.stream_environment(pipeline)
    if spec.restore:
        environment.restore_from(env, spec.restore)
    if spec.goal == "latency":
        return _until_killed(pipeline, env, tables)
    if spec.part == "whole" and spec.goal == "speed":
        client = graph.build(pipeline, env, tables).start()
    else:
        statements = _without_files_written(spec, pipeline, env, tables)
        client = statements.execute().get_job_client()
    if environment.submitted():
        return 0.0
    return float(client.get_job_execution_result().result().get_net_runtime()) / 1_000


def pipeline_toml(spec: Spec) -> str:
    """The configuration: one kind of action, and the features of the spec."""
    if spec.part == "whole":
        doubles, strings = feature_names(spec.features)
    else:
        doubles, strings = [], ["f"]
    parts = [
        '[pipeline]\nname = "benchmark"',
        f'[join]\nkey = "request_id"\npolicy = "{spec.policy}"',
        f'[actions.click]\nwindow = "{spec.window_ms}ms"\nlabel = "any"',
    ]
    parts += (f'[features.{name}]\ntype = "float64"' for name in doubles)
    parts += (f'[features.{name}]\ntype = "string"' for name in strings)
    parts += (
        f'[sources.{stream}]\n{_where(spec, stream)}\nout_of_orderness = "{DISORDER_MS}ms"'
        for stream in ("features", "actions")
    )
    parts.append(f'[output]\npath = "{spec.scratch}/out"')
    separate_sink = "true" if spec.plan == "apart" else "false"
    parts.append(
        f'[runtime]\nparallelism = {spec.parallelism}\nstate_backend = "{spec.backend}"\n'
        f"separate_sink = {separate_sink}"
    )
    parts.append(
        "[flink]\n"
        + "\n".join(f'"{key}" = "{value}"' for key, value in flink_options(spec).items())
    )
    return "\n\n".join(parts) + "\n"


def _until_killed(pipeline: Pipeline, env: Any, tables: Any) -> float:
    """The whole job, and beside its files a small sink that prints rows with the wall clock: the
    first of each request, and those that changed a label.
    """
    from jobs.pipeline import graph, sinks, sources

    events = sources.read(pipeline, env, tables)
    joined = graph.join(pipeline, events)
    sinks.write(pipeline, joined, events.rejected)
    rows = sinks.exploded(pipeline, joined, uid="seen")
    tables.create_temporary_view("rows_seen", tables.from_data_stream(rows))
    tables.execute_sql(
        "CREATE TEMPORARY TABLE seen (request_id STRING, kind STRING, event_time BIGINT,"
        " observed_ms BIGINT, emitted TIMESTAMP_LTZ(3)) WITH ('connector' = 'print')"
    )
    statements = tables.create_statement_set()
    statements.add_insert_sql(
        "INSERT INTO seen SELECT request_id, kind, event_time, observed_ms,"
        " CURRENT_ROW_TIMESTAMP() FROM rows_seen"
        " WHERE kind = 'positive' OR kind = 'final' AND `position` = 0"
    )
    statements.attach_as_datastream()
    client = env.execute_async("latency")
    print("latency: started", flush=True)
    client.get_job_execution_result().result()
    raise RuntimeError("the job has ended")


def _where(spec: Spec, stream: str) -> str:
    if spec.source == "files":
        return f'type = "files"\npath = "{spec.data}/{stream}"'
    return "\n".join(
        (
            'type = "kafka"',
            f'topic = "{spec.topics}-{stream}"',
            f'bootstrap_servers = "{spec.brokers}"',
            f'end = "{"never" if spec.goal == "latency" else "latest"}"',
            # as in SQL
            'partition_discovery = "0s"',
        )
    )


def _without_files_written(spec: Spec, pipeline: Pipeline, env: Any, tables: Any) -> Any:
    """The join and the explosion, into a blackhole (or a log, to see what comes out)."""
    from jobs.pipeline import graph

    alone = spec.part == "alone"
    events = _made(spec, tables) if alone else _read_and_wait(pipeline, env, tables)
    joined = graph.join(pipeline, events)
    return exploded_into("print" if spec.goal == "delay" else "blackhole", pipeline, joined, tables)


def exploded_into(sink: str, pipeline: Pipeline, joined: Any, tables: Any) -> Any:
    """The statements that explode samples into impressions, for Flink's connector `sink`."""
    from jobs.pipeline import sinks

    columns = samples.sql_columns(samples.samples(pipeline.schema, pipeline.kinds))
    tables.execute_sql(
        f"CREATE TEMPORARY TABLE samples ({columns}, dt STRING, hr STRING)"
        f" WITH ('connector' = '{sink}')"
    )
    rows = sinks.exploded(pipeline, joined)
    tables.create_temporary_view("sample_rows", tables.from_data_stream(rows))
    statements = tables.create_statement_set()
    statements.add_insert_sql("INSERT INTO samples SELECT * FROM sample_rows")
    return statements


def _read_and_wait(pipeline: Pipeline, env: Any, tables: Any) -> Any:
    """The files' events, from a list of chunks that Flink goes on watching: no end of input."""

    from jobs.pipeline import file_source, sources
    from udfs.operators import batches

    folder = Path(pipeline.output.path).parent / "chunks"
    folder.mkdir()
    chunks = of_pipeline(pipeline).chunks
    (folder / "chunks.txt").write_bytes(b"\n".join(map(msgspec.json.encode, chunks)))
    tables.execute_sql(
        "CREATE TEMPORARY TABLE chunks (v STRING) WITH ("
        + sql.options(
            {
                "connector": "filesystem",
                "path": str(folder),
                "format": "raw",
                "source.monitor-interval": "1s",
            }
        )
        + ")"
    )
    settings = sources.decode_settings(pipeline, sources.beacon_keys(env))
    # one reader does not look at the numbers
    rows = batches.rows_of(tables, "SELECT v, CAST(0 AS BIGINT) FROM chunks", name="chunks")
    return sources.Events(sources.keyed(file_source.decoded(rows, 1, settings)), None)


def _made(spec: Spec, tables: Any) -> Any:
    """Packed events of the join alone; without an end unless it is for speed, as in SQL."""
    from jobs.pipeline import sources
    from udfs.operators import batches, side_outputs

    count = -(-(spec.requests + CLICK_AFTER_MS // spec.step_ms + 1) // BATCH)
    if spec.goal == "speed":
        columns = "i BIGINT"
        source = f"""'connector' = 'datagen', 'rows-per-second' = '1000000',
            'fields.i.kind' = 'sequence', 'fields.i.start' = '0',
            'fields.i.end' = '{count - 1}'"""
    else:
        columns = "v STRING, i AS CAST(v AS BIGINT)"
        folder = number_folder(spec, "batches", count)
        source = f"""'connector' = 'filesystem', 'path' = {sql.literal(str(folder))},
            'format' = 'raw', 'source.monitor-interval' = '1s'"""
    tables.execute_sql(f"CREATE TEMPORARY TABLE batches ({columns}) WITH ({source})")
    made = batches.records(
        batches.rows_of(tables, "SELECT i FROM batches", name="batches"),
        MakeEvents(spec.requests, spec.step_ms, compressible=spec.goal != "large"),
        uid="make-events",
        columns="l",
        by_clock=True,
        counters=["made"],
        side=[side_outputs.REJECTED],
        limits=batches.Limits(steps=1),
    )
    return sources.Events(sources.keyed(made), None)


class MakeEvents:
    """Makes events in the order of time, for the number of each batch of them; it is a host of
    `udfs/jvm/RecordBatches.java`.
    """

    def __init__(self, requests: int, step_ms: int, *, compressible: bool) -> None:
        self._requests, self._step_ms, self._compressible = requests, step_ms, compressible

    def open(self) -> None:
        """Packs the bodies of requests: one for all, or some that no compression makes smaller."""
        pack = msgspec.msgpack.Encoder().encode
        items = [f"i{p}" for p in range(ITEMS)]
        names = [msgspec.Raw(pack(names)) for names in ([], ["f"])]
        payloads = [["x" * PAYLOAD_BYTES] * ITEMS]
        if not self._compressible:
            # base64, three quarters of whose bits are random
            size = PAYLOAD_BYTES * 3 // 4
            payloads = [
                [base64.b64encode(os.urandom(size)).decode() for _ in items] for _ in range(500)
            ]
        self._pack = pack
        self._bodies = [
            pack(RequestBody("u", items, names[0], [], names[1], [payload])) for payload in payloads
        ]
        self._numbers = msgspec.msgpack.Decoder(list[tuple[int]]).decode

    def run(self, batch: bytes) -> bytes:
        """The events of the batches with these numbers."""
        events = [event for (number,) in self._numbers(batch) for event in self._made(number)]
        return self._pack((False, events, ((), (), ())))

    def _made(self, number: int) -> Iterator[tuple[str, RequestEvent | ActionEvent, int]]:
        requests, step = self._requests, self._step_ms
        origin, item = Origin("made", None, 0), f"i{CLICK_POSITION}"
        behind = CLICK_AFTER_MS // step
        first = number * BATCH
        for n in range(first, first + BATCH):
            time = START_MS + n * step
            # no time moves once the requests are all made
            clock = min(time, START_MS + (requests - 1) * step) - DISORDER_MS
            clock = max(clock, 0) if n >= behind else 0
            if n < requests:
                body = self._bodies[n % len(self._bodies)]
                event = RequestEvent(f"r{n}", time, body, origin, b"")
                yield event.request_id, event, clock
            if 0 <= n - behind < requests:
                id_ = f"r{n - behind}"
                yield (
                    id_,
                    ActionEvent(None, "u", item, id_, "click", None, time, origin, b""),
                    clock,
                )


def main() -> int:
    """One measurement, as a process of its own: a `Spec` as JSON in, seconds out."""
    spec = Spec.from_json(sys.argv[1])
    print(json.dumps({"seconds": run(spec)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
