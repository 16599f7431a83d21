"""Flink's settings of a run, the same for all plans."""

from __future__ import annotations

import sys

from benchmarks.join.spec import Spec

#: Large enough for the state of every plan on the heap.
HEAP = "4g"
#: For RocksDB. Less than the state of any plan at the sizes measured, so that it lives on disk.
MANAGED_MB = 32
#: What the job sets on RocksDB unless it is told otherwise.
ROCKSDB_KEYS = (
    "execution.checkpointing.incremental",
    "state.backend.rocksdb.use-bloom-filter",
    "state.backend.rocksdb.memory.partitioned-index-filters",
)
#: Between checkpoints: where the size of small state is measured, and elsewhere.
CHECKPOINT_S, VISIBLE_EVERY_S = 1, 10


def flink_options(spec: Spec) -> dict[str, str]:
    """Settings by key."""
    options = {
        "python.execution-mode": "thread",
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "pipeline.object-reuse": "true",
        "parallelism.default": str(spec.parallelism),
        "restart-strategy.type": "none",
        "state.backend.type": spec.backend,
        "taskmanager.memory.managed.size": f"{MANAGED_MB}mb",
    }
    if spec.backend == "rocksdb":
        options["state.backend.rocksdb.localdir"] = f"{spec.scratch}/rocksdb"
        # else the job would set them for itself alone (jobs/pipeline/environment.py)
        options |= dict.fromkeys(ROCKSDB_KEYS, "false")
    if spec.port:
        options |= {"rest.port": str(spec.port), "rest.bind-port": str(spec.port)}
    if spec.goal != "speed":
        every = CHECKPOINT_S if spec.goal in ("state", "delay") else VISIBLE_EVERY_S
        options |= {
            "execution.checkpointing.interval": f"{every}s",
            "execution.checkpointing.storage": "filesystem",
            "execution.checkpointing.dir": f"file://{spec.scratch}/checkpoints",
        }
    return options | spec.flink
