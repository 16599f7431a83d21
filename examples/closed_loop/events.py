"""What the world and an application say to each other. Times: epoch ms of the world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """An item that may be shown, with what an application knows of it at this moment."""

    item_id: str
    features: Mapping[str, str | int | float]


@dataclass(frozen=True)
class Request:
    """A user wants to see something. The candidates are in the order in which recall found them."""

    request_id: str
    user_id: str
    time: int
    context: Mapping[str, str | int | float]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Action:
    """What a user did with an item that a request had shown."""

    kind: str
    user_id: str
    item_id: str
    request_id: str
    event_id: str
    time: int
    value: float | None = None
