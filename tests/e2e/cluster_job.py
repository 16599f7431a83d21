"""A job on a cluster, as tests follow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from services.flink_cluster import FlinkCluster
from services.waiting import wait_until


@dataclass(frozen=True)
class Job:
    """A submitted job, and what the cluster says of it."""

    cluster: FlinkCluster
    id: str

    def goes_on(self) -> bool:
        """True; fails the test when the job has failed for good."""
        assert self.cluster.job_state(self.id) != "FAILED", self.cluster.job_exception(self.id)
        return True

    def end(self) -> None:
        """Cancels the job if it has not ended, so that it leaves its slots to the next."""
        if self.cluster.job_state(self.id) not in ("FINISHED", "FAILED", "CANCELED"):
            self.cluster.cancel(self.id)

    def latest(self, what: Literal["completed", "restored"]) -> dict[str, Any]:
        """The latest checkpoint that has completed, or was restored; empty if none has."""
        checkpoints = self.cluster.get(f"/jobs/{self.id}/checkpoints")
        return dict(checkpoints["latest"][what] or {})

    def state_bytes(self) -> int:
        """The size of the latest checkpoint that has completed."""
        return int(self.latest("completed")["state_size"])

    def restored(self) -> int:
        """How often the job has gone on from a checkpoint or savepoint."""
        return int(self.cluster.get(f"/jobs/{self.id}/checkpoints")["counts"]["restored"])

    def newest_exception(self) -> tuple[int, str]:
        """Its time (epoch ms) and stack trace; (0, "") if there was none."""
        history = self.cluster.get(f"/jobs/{self.id}/exceptions?maxExceptions=1")
        for entry in history["exceptionHistory"]["entries"]:
            return int(entry["timestamp"]), str(entry["stacktrace"])
        return 0, ""

    def wait_for_checkpoints(self, number: int) -> None:
        """Until so many have completed that were not yet under way."""
        end = int(self.latest("completed").get("id", 0)) + 1 + number
        wait_until(
            lambda: self.goes_on() and self.latest("completed").get("id", 0) >= end,
            120,
            f"{number} more checkpoints",
        )

    def task_managers(self, operator: str) -> list[str]:
        """Where the subtasks of an operator run."""
        for vertex in self.cluster.get(f"/jobs/{self.id}")["vertices"]:
            if operator in vertex["name"]:
                subtasks = self.cluster.get(f"/jobs/{self.id}/vertices/{vertex['id']}")["subtasks"]
                return [subtask["taskmanager-id"] for subtask in subtasks]
        raise AssertionError(f"no operator {operator}")

    def metrics(self, operator: str, name: str) -> list[int]:
        """A metric of each subtask; those that Flink does not show yet are missing."""
        found = []
        for vertex in self.cluster.get(f"/jobs/{self.id}")["vertices"]:
            if operator not in vertex["name"]:
                continue
            root = f"/jobs/{self.id}/vertices/{vertex['id']}/metrics"
            for metric in self.cluster.get(root):
                if metric["id"].endswith(name):
                    values = self.cluster.get(f"{root}?get={quote(metric['id'])}")
                    found += [int(value["value"]) for value in values]
        return found

    def metric(self, operator: str, name: str) -> int:
        """The sum over subtasks; 0 while Flink does not show it yet."""
        return sum(self.metrics(operator, name))

    def wait_until_read(self, stream: str, records: int) -> None:
        """Until so many records were read, and written down in two checkpoints after that."""
        wait_until(
            lambda: self.goes_on() and self.metric(f"decode {stream}", f"{stream}_read") == records,
            120,
            f"{records} {stream} to be read",
            every_s=0.25,
        )
        self.wait_for_checkpoints(2)
