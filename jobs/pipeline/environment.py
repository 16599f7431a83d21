"""The Flink environment of a job: where Java, Python and the jars are, and what is set by default.

The one place that adds jars. Run locally, everything comes from this environment; submitted with
`flink run`, the cluster has its own Java and Python, and the connectors in its `lib/`.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from configuration.stores import is_stored
from jobs.pipeline import object_storage, places
from jobs.pipeline.config import ArchiveSource, ConfigError, LogFormat, Pipeline

_JARS = Path(__file__).resolve().parents[2] / "pom-free" / "jars"


_UNALIGNED = "execution.checkpointing.unaligned.enabled"
CHECKPOINT_FOLDER = "execution.checkpointing.dir"
RESTORE_PATH = "execution.state-recovery.path"
METADATA = "_metadata"
#: Flink's internal option. The Kubernetes operator sets a new id for each deployment that does not
#: go on by itself.
_FIXED_JOB_ID = "$internal.pipeline.job-id"


class SetupError(Exception):
    """One line for a person: something that the job needs is not there."""


def submitted() -> bool:
    """Whether this program runs inside `flink run`, which lends it a gateway."""
    return "PYFLINK_GATEWAY_PORT" in os.environ


def prepare_process(
    log_folder: Path,
    *,
    metrics: bool = False,
    log_format: LogFormat = "text",
    iceberg: bool = False,
) -> None:
    """What must be in the environment before the JVM of a local run starts.

    `metrics`: the options will have `flink_metrics.settings`. `iceberg`: the job has an Iceberg
    table.

    Thread mode embeds the `python` that is first on PATH, whatever `python.executable` says, so
    this one goes first. Raises SetupError without a suitable Java, or without the jars.
    """
    # Only for a local run: what is submitted to a cluster does not carry the local services.
    from services import flink_metrics, java, log4j

    os.environ["PATH"] = os.pathsep.join([f"{sys.prefix}/bin", os.environ.get("PATH", "")])
    try:
        os.environ["JAVA_HOME"] = str(java.find_java_home())
    except java.JavaError as error:
        raise SetupError(str(error)) from None
    # Otherwise pyflink opens a port on all interfaces that starts Python workers for whoever asks.
    os.environ["_python_worker_execution_mode"] = "process"  # noqa: SIM112
    log_folder.mkdir(parents=True, exist_ok=True)
    os.environ["FLINK_LOG_DIR"] = str(log_folder)
    log4j_properties = log_folder / "log4j.properties"
    log4j_properties.write_text(log4j.configuration("files", log_format))
    os.environ["LOG4J_PROPERTIES"] = log4j_properties.as_uri()
    # PyFlink puts these on the class path of its JVM: the mini-cluster loads no plugins. Added to
    # the job instead, each of its sources would load Kafka's client anew, and of several only one
    # can do OAUTHBEARER, because Java keeps the mechanisms of SASL that it has seen first.
    own = [*jars(), flink_metrics.reporter_jar()] if metrics else jars()
    if iceberg:
        own += jars("iceberg")
    classes = os.environ.get("HADOOP_CLASSPATH", "").split(os.pathsep) + [str(jar) for jar in own]
    os.environ["HADOOP_CLASSPATH"] = os.pathsep.join(dict.fromkeys(filter(None, classes)))


def stream_environment(pipeline: Pipeline) -> tuple[Any, Any]:
    """The DataStream and Table environments of a pipeline. Raises ConfigError.

    Checkpoints go to the pipeline's own folder unless the cluster's configuration has one.
    """
    from pyflink.common import Configuration
    from pyflink.datastream import StreamExecutionEnvironment
    from pyflink.table import StreamTableEnvironment

    configuration = Configuration()
    for key, value in options(pipeline).items():
        configuration.set_string(key, value)
    env = StreamExecutionEnvironment.get_execution_environment(configuration)
    if not submitted() and uses_s3(pipeline):
        options_of_s3 = object_storage.options(pipeline.object_storage, pipeline.flink)
        object_storage.load_plugin(jars("s3"), options_of_s3)
    if option(env, CHECKPOINT_FOLDER) is None:
        _set(env, CHECKPOINT_FOLDER, places.as_uri(pipeline.checkpoints))
    if pipeline.runtime.parallelism is not None:
        env.set_parallelism(pipeline.runtime.parallelism)
    elif not submitted():
        env.set_parallelism(1)
    tables = StreamTableEnvironment.create(env)
    tables.get_config().set("table.local-time-zone", "UTC")
    # otherwise another parallelism changes the ids of the Table operators, and no savepoint fits
    tables.get_config().set("table.exec.uid.generation", "ALWAYS")
    return env, tables


def uses_s3(pipeline: Pipeline) -> bool:
    """Whether anything that the job reads or writes is on `s3://`."""
    each = [named.source for named in pipeline.sources.each]
    read = [source.path for source in each if isinstance(source, ArchiveSource)]
    named = (pipeline.output.path, pipeline.checkpoints, *pipeline.flink.values())
    return any(map(is_stored, (*read, *named)))


def option(env: Any, key: str) -> str | None:
    """The value of a Flink option, from the pipeline or from the cluster's configuration."""
    settings = env._j_stream_execution_environment.getConfiguration().toMap()
    return None if settings.get(key) is None else str(settings.get(key))


def checkpoint_folder(env: Any) -> str:
    """The place where the job's checkpoints lie; without the scheme if it is local."""
    return places.from_uri(option(env, CHECKPOINT_FOLDER) or "")


def recovering_job(env: Any) -> str | None:
    """The id of the job, if the cluster can run this program again under the same id and then goes
    on from its own checkpoint: an application (`flink run-application`, Kubernetes) with high
    availability. None otherwise.
    """
    if (option(env, "high-availability.type") or "NONE").upper() == "NONE":
        return None
    return option(env, _FIXED_JOB_ID)


def restore_from(env: Any, snapshot: str) -> None:
    """Make the job go on from a checkpoint or savepoint."""
    if is_stored(snapshot):
        # By its file: whether there is a folder of that name, servers answer in different ways.
        snapshot = places.below(snapshot, METADATA)
    _set(env, RESTORE_PATH, places.as_uri(snapshot))


def jars(name: str = "flink") -> list[Path]:
    """Those of a set (pom-free/jars.toml). Raises SetupError when they have not been fetched."""
    found = sorted((_JARS / name).glob("*.jar"))
    if not found:
        level = "setup" if name in ("flink", "s3") else f"setup-{name}"
        raise SetupError(f"the jars of the set {name!r} are missing: run `make {level}` first")
    return found


def _set(env: Any, key: str, value: str) -> None:
    from pyflink.common import Configuration

    configuration = Configuration()
    configuration.set_string(key, value)
    env.configure(configuration)


def options(pipeline: Pipeline) -> dict[str, str]:
    """Flink's settings of a job, by key; what the pipeline's `[flink]` says goes last.

    Raises ConfigError.
    """
    runtime = pipeline.runtime
    options = {
        "pipeline.name": pipeline.pipeline.name,
        "pipeline.object-reuse": "true",
        # A row waits for the watermark, and that for a buffer to be sent: Flink's 200 ms and 100 ms
        # would be most of its latency.
        "pipeline.auto-watermark-interval": f"{max(1, int(runtime.batch_delay))} ms",
        "execution.buffer-timeout.interval": "10 ms",
        "python.execution-mode": "thread",
        "state.backend.type": runtime.state_backend,
        # fixed, for keys go to key groups by it, and a savepoint keeps it
        "pipeline.max-parallelism": "128",
        # the sink's committer has a maximum of its own (1); chained at parallelism 1 and not at 2,
        # it would keep a savepoint of the one from being restored at the other
        "pipeline.operator-chaining.chain-operators-with-different-max-parallelism": "false",
        "python.client.executable": sys.executable,
    }
    if not submitted():
        options["python.executable"] = sys.executable
        if runtime.metrics_port is not None:
            from services import flink_metrics

            options |= flink_metrics.settings(runtime.metrics_port)
        # one local process: a failure is the user's to see, not to be tried again without end
        options["restart-strategy.type"] = "none"
        # the mini-cluster is for this process alone; by default it listens on all interfaces
        for key in ("jobmanager.bind-host", "taskmanager.bind-host", "rest.bind-address"):
            options[key] = "127.0.0.1"
    if runtime.state_backend == "rocksdb":
        # Flink's defaults are for state that fits in memory. By them each checkpoint copies all of
        # it, a question for a new key reads from each level, and an index pushes out all others.
        options["execution.checkpointing.incremental"] = "true"
        options["state.backend.rocksdb.use-bloom-filter"] = "true"
        options["state.backend.rocksdb.memory.partitioned-index-filters"] = "true"
    if runtime.file_readers > 1:
        # what InChunkOrder.java restores needs all of its subtasks at the same chunk
        options[_UNALIGNED] = "false"
        if pipeline.flink.get(_UNALIGNED, "false").lower() != "false":
            raise ConfigError(f"flink.{_UNALIGNED}: must be false with runtime.file_readers")
    if pipeline.checkpoint_interval is not None:
        options["execution.checkpointing.interval"] = f"{pipeline.checkpoint_interval} ms"
    # a job that failed or was cancelled can then be gone on with; Flink's default deletes them
    options["execution.checkpointing.externalized-checkpoint-retention"] = "RETAIN_ON_CANCELLATION"
    if runtime.checkpoint_path is not None:
        options["execution.checkpointing.storage"] = "filesystem"
        options[CHECKPOINT_FOLDER] = places.as_uri(runtime.checkpoint_path)
    for key in pipeline.flink:
        if not re.fullmatch(r"[a-z0-9._-]+", key):
            raise ConfigError(f"flink.{key}: not the name of a Flink option")
    return options | pipeline.flink
