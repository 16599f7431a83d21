"""One run of a SQL plan: ``python -m benchmarks.join.run_sql SPEC``; the last line is a JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pyflink.common import Configuration
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment

from benchmarks.join import on_cluster
from benchmarks.join.flink_options import flink_options
from benchmarks.join.spec import Spec
from benchmarks.join.sql_plans import statements
from jobs.pipeline import environment
from services.jars import jar_paths


def run(spec: Spec) -> float:
    """Run to the end of the input; returns Flink's net runtime in seconds.

    With a parallelism above 1, and not yet inside `flink run`, on a cluster of its own.
    """
    if spec.parallelism > 1 and not environment.submitted():
        return on_cluster.run(spec, Path(__file__))
    configuration = Configuration()
    for key, value in flink_options(spec).items():
        configuration.set_string(key, value)
    env = StreamExecutionEnvironment.get_execution_environment(configuration)
    env.set_parallelism(spec.parallelism)
    if not environment.submitted():
        env.add_jars(*(jar.as_uri() for jar in jar_paths("flink")))
    tables = StreamTableEnvironment.create(env)
    tables.get_config().set("table.local-time-zone", "UTC")
    *ddl, insert = statements(spec)
    for statement in ddl:
        tables.execute_sql(statement)
    client = tables.execute_sql(insert).get_job_client()
    if environment.submitted():
        return 0.0
    return float(client.get_job_execution_result().result().get_net_runtime()) / 1_000


def main() -> int:
    """One measurement, as a process of its own: a `Spec` as JSON in, seconds out."""
    spec = Spec.from_json(sys.argv[1])
    print(json.dumps({"seconds": run(spec)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
