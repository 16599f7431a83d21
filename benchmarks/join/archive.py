"""``python -m benchmarks.join.archive``: the archiving job beside Flink SQL from Kafka to Parquet.

Every run is a process of its own, with one subtask, no checkpoints and the same broker. The plans
take turns. Beside the seconds stand the CPU seconds of a run, start of the JVM included, which say
more on a machine that does other things as well. Writes ``benchmarks/join/archive.md``.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
import pyarrow.compute as pc
import pyarrow.dataset as ds

from benchmarks.join.data import input_folder
from benchmarks.join.spec import Spec
from benchmarks.join.topics import Topics
from benchmarks.reporting import machine

HERE = Path(__file__).resolve().parent
STREAMS = ("features", "actions")
#: What each plan writes.
PLANS = {
    "ours": "everything: `jobs.archive_events`",
    "sql": "SQL, the record only (headers as a map): nothing is parsed",
    "sql and ids": "SQL, the record, event time and ids by `JSON_VALUE`: nothing is validated",
}
_DEADLINE_S = 900


@dataclass(frozen=True)
class Run:
    """One run. `seconds`: Flink's net runtime; `cpu`: of the whole process; `size`: bytes."""

    plan: str
    seconds: float
    cpu: float
    records: int
    value_bytes: int
    size: int


def main() -> int:
    """Measure, and write the table. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.join.archive", description=__doc__)
    parser.add_argument("--requests", type=int, default=30_000)
    parser.add_argument("--repeat", type=int, default=5, help="runs of each plan")
    parser.add_argument("--cache", type=Path, default=Path("out/bench-cache"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_one(**json.loads(arguments.one))), flush=True)
        return 0
    spec = Spec("whole", "ours", "hashmap", arguments.requests, 8, 20, 60_000, source="kafka")
    runs: list[Run] = []
    cache: Path = arguments.cache.resolve()
    with Topics(cache / "kafka").running() as topics:
        files = input_folder(cache, spec)
        spec = replace(spec, topics=topics.filled(spec, files), brokers=topics.servers)
        for _ in range(arguments.repeat):
            for plan in PLANS:
                runs.append(_measured(plan, spec))
                print(json.dumps(asdict(runs[-1])), flush=True)
    if len({(run.records, run.value_bytes) for run in runs}) != 1:
        print("the plans did not write the same records", file=sys.stderr)
        return 1
    page = _page(runs)
    (HERE / "archive.md").write_text(page)
    print(page)
    return 0


def _measured(plan: str, spec: Spec) -> Run:
    with tempfile.TemporaryDirectory(prefix="bench-archive-") as folder:
        argument = {"plan": plan, "topics": spec.topics, "brokers": spec.brokers, "folder": folder}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.join.archive", "--one", json.dumps(argument)],
            check=False,
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
        )
        if done.returncode:
            raise RuntimeError(f"{plan}: {done.stderr[-4000:]}")
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        found = [_written(Path(folder) / "out" / stream) for stream in STREAMS]
        records, value_bytes, size = (sum(numbers) for numbers in zip(*found, strict=True))
        return Run(plan, answer["seconds"], answer["cpu"], records, value_bytes, size)


def _written(folder: Path) -> tuple[int, int, int]:
    """Records, bytes of their values, and bytes of the files."""
    files = [path for path in folder.glob("*/*/*") if path.name[0] not in "._"]
    values = ds.dataset([str(path) for path in files], format="parquet").to_table(["value"])
    lengths = pc.sum(pc.binary_length(values["value"])).as_py()
    return values.num_rows, int(lengths), sum(path.stat().st_size for path in files)


def _one(plan: str, topics: str, brokers: str, folder: str) -> dict[str, float]:
    """Run one plan to the end of the topics, in this process."""
    run: Callable[[str, str, Path], float] = _ours if plan == "ours" else _sql
    if plan == "sql and ids":
        run = _sql_with_ids
    seconds = run(topics, brokers, Path(folder))
    # the JVM still runs; it is not waited for, so the kernel would not count it
    me = psutil.Process()
    times = [one.cpu_times() for one in (me, *me.children(recursive=True))]
    return {"seconds": seconds, "cpu": sum(time.user + time.system for time in times)}


def _config(topics: str, brokers: str, folder: Path) -> Path:
    from benchmarks.join.data import feature_names

    doubles, strings = feature_names(8)
    parts = ['[actions.click]\nwindow = "60s"\nlabel = "any"']
    parts += [f'[features.{name}]\ntype = "float64"' for name in doubles]
    parts += [f'[features.{name}]\ntype = "string"' for name in strings]
    parts += [
        f'[sources.{stream}]\ntype = "kafka"\ntopic = "{topics}-{stream}"\n'
        f'bootstrap_servers = "{brokers}"\nend = "latest"'
        for stream in STREAMS
    ]
    parts += ['[output]\npath = "joined"', '[archive]\npath = "out"']
    path = folder / "pipeline.toml"
    path.write_text("\n".join(parts) + "\n")
    return path


def _ours(topics: str, brokers: str, folder: Path) -> float:
    from jobs.pipeline import archive, environment

    pipeline = archive.load(_config(topics, brokers, folder))
    environment.prepare_process(folder / "logs")
    env, tables = environment.stream_environment(pipeline)
    job = archive.build(pipeline, env, tables).start()
    return float(job.get_job_execution_result().result().get_net_runtime()) / 1_000


def _sql(topics: str, brokers: str, folder: Path) -> float:
    return _in_sql(topics, brokers, folder, dict.fromkeys(STREAMS, ("", "")))


def _sql_with_ids(topics: str, brokers: str, folder: Path) -> float:
    def text(path: str) -> str:
        return f"JSON_VALUE(DECODE(v, 'UTF-8'), '$.{path}')"

    columns = ", event_time BIGINT, request_id STRING, user_id STRING, item_ids STRING"
    ids = f", CAST({text('event_time')} AS BIGINT), {text('request_id')}, {text('user_id')}"
    items = ", JSON_QUERY(DECODE(v, 'UTF-8'), '$.items[*].item_id' WITH ARRAY WRAPPER)"
    more = {
        "features": (columns, ids + items),
        "actions": (columns, f"{ids}, {text('item_id')}"),
    }
    return _in_sql(topics, brokers, folder, more)


def _in_sql(topics: str, brokers: str, folder: Path, more: dict[str, tuple[str, str]]) -> float:
    """`more`: by stream, further columns of the files, and what they are made of."""
    from jobs.pipeline import archive, environment

    # the options of Flink that ours has
    pipeline = archive.load(_config(topics, brokers, folder))
    environment.prepare_process(folder / "logs")
    _, tables = environment.stream_environment(pipeline)
    statements = tables.create_statement_set()
    record = "topic, part, off, ts, ts_type, k, v, headers"
    for stream in STREAMS:
        columns, values = more[stream]
        tables.execute_sql(
            f"""CREATE TEMPORARY TABLE {stream}_in (k BYTES, v BYTES,
                topic STRING METADATA VIRTUAL,
                part INT METADATA FROM 'partition' VIRTUAL,
                off BIGINT METADATA FROM 'offset' VIRTUAL,
                ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
                ts_type STRING METADATA FROM 'timestamp-type' VIRTUAL,
                headers MAP<STRING, BYTES> METADATA VIRTUAL)
            WITH ('connector' = 'kafka', 'topic' = '{topics}-{stream}',
                'properties.bootstrap.servers' = '{brokers}', 'key.format' = 'raw',
                'key.fields' = 'k', 'value.format' = 'raw', 'value.fields-include' = 'EXCEPT_KEY',
                'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset')"""
        )
        tables.execute_sql(
            f"""CREATE TEMPORARY TABLE {stream}_out (topic STRING, `partition` INT,
                `offset` BIGINT, `timestamp` TIMESTAMP(3), timestamp_type STRING, `key` BYTES,
                `value` BYTES, headers MAP<STRING, BYTES>{columns}, dt STRING, hr STRING)
            PARTITIONED BY (dt, hr)
            WITH ('connector' = 'filesystem', 'path' = 'file://{folder}/out/{stream}',
                'format' = 'parquet', 'parquet.compression' = 'ZSTD')"""
        )
        statements.add_insert_sql(
            f"INSERT INTO {stream}_out SELECT {record.replace('ts,', 'CAST(ts AS TIMESTAMP(3)),')}"
            f"{values}, DATE_FORMAT(ts, 'yyyy-MM-dd'), DATE_FORMAT(ts, 'HH') FROM {stream}_in"
        )
    job = statements.execute().get_job_client()
    return float(job.get_job_execution_result().result().get_net_runtime()) / 1_000


def _page(runs: list[Run]) -> str:
    first, facts = runs[0], machine()
    median = {
        plan: statistics.median(run.seconds for run in runs if run.plan == plan) for plan in PLANS
    }
    text = (
        f"From Kafka to Parquet: {first.records:,} records, {first.value_bytes / 1e6:.0f} MB of "
        f"values. {facts['cores']} cores ({facts['processor']}). Written by "
        f"`python -m benchmarks.join.archive`: each plan ran {len(runs) // len(PLANS)} times, in "
        "turns, with one subtask, ZSTD and no checkpoints. Seconds are Flink's net runtime: the "
        "median, and in brackets the fastest and the slowest. CPU seconds are those of the whole "
        "process, with the start of Python and of the JVM."
    )
    lines = ["# The archive against Flink SQL", "", *_wrapped(text), ""]
    lines += [
        "| plan | seconds | records/s | of SQL's speed | of SQL's with ids | CPU seconds | MB |",
        "| -- | -- | -- | -- | -- | -- | -- |",
    ]
    for plan, what in PLANS.items():
        mine = [run for run in runs if run.plan == plan]
        all_seconds = [run.seconds for run in mine]
        seconds = median[plan]
        cells = [
            what,
            f"{seconds:.1f} ({min(all_seconds):.1f} to {max(all_seconds):.1f})",
            f"{first.records / seconds:,.0f}",
            f"{median['sql'] / seconds:.2f}",
            f"{median['sql and ids'] / seconds:.2f}",
            f"{statistics.median(run.cpu for run in mine):.1f}",
            f"{statistics.median(run.size for run in mine) / 1e6:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    """Lines of 100 characters, with code in one piece, as mdformat has them."""
    whole = re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", "\x00"), text)
    return [line.replace("\x00", " ") for line in textwrap.wrap(whole, 100)]


if __name__ == "__main__":
    sys.exit(main())
