"""What the harness and the trainer's processes tell each other, in files of one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

#: The plan, for all processes; the status, of the coordinator.
PLAN, STATUS = "plan.json", "status.json"
#: Names of processes that the coordinator takes for ended, and that it cannot end.
ENDED, UNREACHABLE = "ended", "unreachable"


@dataclass(frozen=True)
class Plan:
    """How the processes are to run.

    `coordinator`: its address. `servers`, `workers`: places, each an address and the words that put
    a command there. `settings`: of the trainer's configuration. `times`: seconds, by the constant's
    name. `worker`, `plant`: a class and a function to use, as `module:name`, or "".
    """

    coordinator: str = ""
    servers: Sequence[Sequence[str]] = ()
    workers: Sequence[Sequence[str]] = ()
    settings: Sequence[str] = ()
    times: Mapping[str, float] = field(default_factory=dict)
    worker: str = ""
    plant: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `json`."""
        return asdict(self)

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Plan:
        """What `as_json` made."""
        return cls(**found)


@dataclass(frozen=True)
class Member:
    """A server or a worker that the coordinator counts on. `place`: `s1`, `w0`, …"""

    name: str
    role: str
    number: int
    place: str
    pid: int


@dataclass(frozen=True)
class Status:
    """What the coordinator says of itself.

    `life`: which start of the trainer. `batches`: parts of batches that were learned since then.
    `events`: what it noted of processes. `generation`: 1, and 1 more with each roll-back.
    `primaries`, `backups`: the server of each shard.
    """

    life: str
    batches: int
    events: Sequence[str]
    generation: int
    primaries: Mapping[int, int]
    backups: Mapping[int, int | None]
    members: Sequence[Member]

    @property
    def whole(self) -> bool:
        """Whether every shard has a backup."""
        return bool(self.backups) and None not in self.backups.values()

    def server(self, number: int) -> Member:
        """The server of that number. Raises LookupError."""
        for member in self._of("server"):
            if member.number == number:
                return member
        raise LookupError(f"there is no server {number}")

    @property
    def servers(self) -> list[Member]:
        """By their numbers."""
        return self._of("server")

    @property
    def workers(self) -> list[Member]:
        """By their numbers."""
        return self._of("worker")

    def _of(self, role: str) -> list[Member]:
        return sorted((m for m in self.members if m.role == role), key=lambda m: m.number)

    def as_json(self) -> dict[str, Any]:
        """For `json`."""
        return asdict(self)

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Status:
        """What `as_json` made."""
        numbers = {
            name: {int(shard): server for shard, server in found[name].items()}
            for name in ("primaries", "backups")
        }
        members = [Member(**member) for member in found["members"]]
        return cls(**{**found, **numbers, "members": members})
