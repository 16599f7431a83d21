"""A run at a parallelism above one: a session cluster with a task manager for each subtask.

The threads of one task manager share Python's interpreter lock, so this is how the job scales. The
SQL plans get the same cluster.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.join.flink_options import flink_options
from benchmarks.join.spec import Spec
from services.flink_cluster import FlinkCluster

#: Of each task manager.
_MEMORY = "3g"
_DEADLINE_S = 1_200.0


def run(spec: Spec, script: Path) -> float:
    """Submit `script` with the spec, and wait for its job.

    Returns:
        The duration of the job in seconds, as Flink's REST API gives it.

    Raises:
        ClusterError: the cluster did not start, or the job failed.
    """
    settings = flink_options(spec) | {
        "taskmanager.memory.process.size": _MEMORY,
    }
    cluster = FlinkCluster(
        Path(spec.scratch) / "cluster", task_managers=spec.parallelism, slots=1, settings=settings
    )
    try:
        cluster.start()
        job = cluster.run(script, [spec.to_json()], parallelism=spec.parallelism).job_id
        cluster.wait_for_job(job, "FINISHED", _DEADLINE_S)
        return float(cluster.get(f"/jobs/{job}")["duration"]) / 1_000
    finally:
        cluster.stop()
