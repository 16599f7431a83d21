"""The joining job under load: its configuration, and how it is submitted and stopped."""

from __future__ import annotations

from pathlib import Path

from chaos.cluster import Cluster
from chaos.load import DISORDER, PARTITIONS, RULES

_SCRIPT = Path(__file__).resolve().parents[1] / "jobs" / "join_samples.py"

# Time stands still while a partition is silent, as it is while its broker is down.
_SOURCE = """
[sources.{stream}]
type = "kafka"
topic = "{topic}"
bootstrap_servers = "{servers}"
out_of_orderness = "{disorder}ms"
idle_timeout = "1h"
partition_discovery = "2s"
"""
_CONFIG = """
[pipeline]
name = "chaos"
[join]
key = "request_id"
late_horizon = "{horizon}ms"
{actions}
[features.price]
type = "float64"
{sources}
[output]
path = "{output}"
[runtime]
state_backend = "{backend}"
checkpoint_interval = "1s"
checkpoint_path = "{checkpoints}"
"""


class JoinJob:
    """One output and its topics; several submissions may write it, one after the other."""

    def __init__(self, cluster: Cluster, name: str, backend: str) -> None:
        """Write the configuration and make the topics; nothing is submitted.

        Args:
            cluster: where it is to run.
            name: of the folder of its output, and of its topics.
            backend: `hashmap` or `rocksdb`.
        """
        self._cluster = cluster
        self.topics = (f"{name}-features", f"{name}-actions")
        self.output = cluster.folder / "out" / name
        self.config = cluster.folder / f"{name}.toml"
        #: of the latest submission
        self.parallelism = 0
        self._checkpoints = cluster.folder / "checkpoints" / name
        for topic in self.topics:
            cluster.kafka.create_topic(topic, partitions=PARTITIONS)
        actions = "".join(
            f'[actions.{kind}]\nwindow = "{window}ms"\nlabel = "{RULES.labels[kind]}"\n'
            for kind, window in RULES.windows.items()
        )
        sources = "".join(
            _SOURCE.format(
                stream=stream,
                topic=topic,
                servers=cluster.kafka.bootstrap_servers,
                disorder=2 * DISORDER,
            )
            for stream, topic in zip(("features", "actions"), self.topics, strict=True)
        )
        self.config.write_text(
            _CONFIG.format(
                horizon=RULES.remembered,
                actions=actions,
                sources=sources,
                output=self.output,
                backend=backend,
                checkpoints=self._checkpoints,
            ),
            encoding="utf-8",
        )

    def submit(
        self, *, parallelism: int, savepoint: str | None = None, restore_latest: bool = False
    ) -> None:
        """Submit it; return when the cluster has accepted it."""
        arguments = ["--config", str(self.config)]
        arguments += ["--restore", "latest"] if restore_latest else []
        submission = self._cluster.flink.run(
            _SCRIPT, arguments, parallelism=parallelism, savepoint=savepoint
        )
        self._cluster.job = submission.job_id
        self.parallelism = parallelism

    def stop(self, *, drain: bool = False) -> str:
        """Stop with a savepoint, and return where that is."""
        return self._cluster.flink.stop_job(
            self._cluster.job, self._checkpoints, drain=drain, deadline_s=120
        )

    def cancel(self) -> None:
        """Cancel as it stands."""
        self._cluster.flink.cancel(self._cluster.job)
