"""What one run is: the size of its input, the plan, the backend, and where things lie."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

Plan = Literal["ours", "interval", "over"]
Backend = Literal["hashmap", "rocksdb"]
Part = Literal["whole", "alone"]
Goal = Literal["speed", "state", "delay"]

PLANS: tuple[Plan, ...] = ("ours", "interval", "over")

ITEMS = 20
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
    #: Where this run's input, output and checkpoints lie; of no meaning for the figures.
    data: str = ""
    scratch: str = ""
    port: int = 0

    @property
    def impressions(self) -> int:
        """Impressions in all requests together."""
        return self.requests * ITEMS

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
