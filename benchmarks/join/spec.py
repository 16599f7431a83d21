"""What one run is: its input, the plan, the backend, and where things lie."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Literal

Plan = Literal["ours", "apart", "interval", "over", "spark", "quix"]
#: Where the whole job's input is read from.
Source = Literal["files", "kafka"]
Backend = Literal["hashmap", "rocksdb"]
Part = Literal["whole", "alone"]
Goal = Literal["speed", "state", "delay", "latency", "large"]

#: This project's: with its own defaults, and with `runtime.separate_sink`.
OURS: tuple[Plan, ...] = ("ours", "apart")
#: Those that run on Flink.
PLANS: tuple[Plan, ...] = ("ours", "interval", "over")
#: Those that are other systems, with an environment of their own.
PEERS: tuple[Plan, ...] = ("spark", "quix")

ITEMS = 20
CLICK_PERCENT = 5
#: Bytes of features an item in the join alone.
PAYLOAD_BYTES = 160
#: 2023-11-14 23:00 UTC, milliseconds: the start of an hour.
START_MS = 1_700_002_800_000
#: Disorder that both sides allow for, milliseconds.
DISORDER_MS = 1_000


@dataclass(frozen=True)
class Spec:
    """One run in a process of its own. Times in milliseconds."""

    part: Part
    plan: Plan
    backend: Backend
    requests: int
    features: int
    step_ms: int
    window_ms: int
    goal: Goal = "speed"
    items: int = ITEMS
    #: Of the impressions.
    click_percent: int = CLICK_PERCENT
    source: Source = "files"
    #: Of each topic.
    partitions: int = 1
    #: Subtasks; above 1 each has a task manager of its own.
    parallelism: int = 1
    #: The broker as ``host:port``, and its topics of this input as ``<topics>-features`` and
    #: ``<topics>-actions``.
    brokers: str = ""
    topics: str = ""
    #: When ours emits rows.
    policy: str = "wait"
    #: Further options of Flink, and a checkpoint to go on from.
    flink: dict[str, str] = field(default_factory=dict)
    restore: str = ""
    #: Where this run's input, output and checkpoints lie; of no meaning for the figures.
    data: str = ""
    scratch: str = ""
    port: int = 0

    @property
    def impressions(self) -> int:
        """Impressions in all requests together."""
        return self.requests * self.items

    @property
    def span_ms(self) -> int:
        """Event time from the first request to the last."""
        return self.requests * self.step_ms

    def to_json(self) -> str:
        """The spec as the argument of a measuring process; `from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """The spec that `to_json` wrote."""
        return cls(**json.loads(text))
