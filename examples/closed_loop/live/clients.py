"""What an application does: it asks for a ranking, and it hands in what users did.

A service that does not answer is asked again until it does, because the world stands still
meanwhile: in event time an outage lasts no time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import requests

from examples.closed_loop.events import Action, Request

_T = TypeVar("_T")
#: For so long a service may be away.
GIVE_UP_S = 240.0
_AGAIN_S = 0.2
_TIMEOUT_S = 30.0


class ServiceError(Exception):
    """A service refused a request, or was away for too long; the message says which, and why."""


@dataclass(frozen=True)
class Ranking:
    """An answer: the items in rank order.

    `model`: which export has scored them, as the features say it; None: no model did.
    `model_time`: up to when that had learned, epoch ms. `asked_again`: an earlier answer was lost.
    """

    items: tuple[str, ...]
    model: str | None
    model_time: int | None
    asked_again: bool


class Ranker:
    """A client of the ranking service at `address`.

    `waits`: how often a request had to be sent again.
    """

    def __init__(self, address: str, stopped: threading.Event) -> None:
        """`stopped`: nobody waits for an answer any more."""
        self._address, self._stopped = address, stopped
        self._session = _session()
        self.waits = 0

    def rank(self, request: Request) -> Ranking:
        """Raises ServiceError."""
        body = {
            "request_id": request.request_id,
            "user_id": request.user_id,
            "event_time": request.time,
            "context": request.context,
            "candidates": [
                {"item_id": one.item_id, "features": one.features} for one in request.candidates
            ],
        }
        answer, failures = _patiently(
            lambda: self._session.post(f"{self._address}/rank", json=body, timeout=_TIMEOUT_S),
            self._stopped,
        )
        self.waits += failures
        if not answer["logged"]:
            raise ServiceError("a ranking service has dropped the features of a request")
        model = answer["model"]
        return Ranking(
            tuple(item["item_id"] for item in answer["items"]),
            None if model is None else f"{model['run']}/{model['number']}",
            None if model is None else model["event_time"],
            failures > 0,
        )


class Collector:
    """A client of the action collector. `waits`: how often a batch had to be sent again."""

    def __init__(self, address: str, stopped: threading.Event) -> None:
        """`stopped`: nobody waits for an answer any more."""
        self._address, self._stopped = address, stopped
        self._session = _session()
        self.waits = 0

    def send(self, actions: Sequence[Action]) -> None:
        """Returns when the broker has all of them. Raises ServiceError, also if one is rejected."""
        body = {"actions": [_as_json(action) for action in actions]}
        answer, failures = _patiently(
            lambda: self._session.post(f"{self._address}/actions", json=body, timeout=_TIMEOUT_S),
            self._stopped,
        )
        self.waits += failures
        rejected = [one for one in answer["results"] if one["status"] != "accepted"]
        if rejected:
            raise ServiceError(f"the collector rejected {len(rejected)} actions: {rejected[0]}")


def _as_json(action: Action) -> dict[str, Any]:
    found = {
        "kind": action.kind,
        "user_id": action.user_id,
        "item_id": action.item_id,
        "request_id": action.request_id,
        "event_id": action.event_id,
        "event_time": action.time,
    }
    if action.value is not None:
        found["value"] = action.value
    return found


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # loopback: a proxy of the environment has nothing to do with it
    return session


def _patiently(send: Callable[[], requests.Response], stopped: threading.Event) -> tuple[Any, int]:
    """The answer, and how often there was none."""
    end = time.monotonic() + GIVE_UP_S
    failures = 0
    while True:
        try:
            response = send()
        except requests.RequestException as error:
            why = str(error)
        else:
            if response.status_code == requests.codes.ok:
                return response.json(), failures
            why = f"{response.status_code} {response.text}"
            if response.status_code < requests.codes.internal_server_error:
                raise ServiceError(f"{response.url} answered {why}")
        if time.monotonic() > end:
            raise ServiceError(f"no answer within {GIVE_UP_S:.0f} s: {why}")
        failures += 1
        if stopped.wait(_AGAIN_S):
            raise ServiceError(f"stopped while it waited for an answer: {why}")
