"""The join over stored keys: reads what an event needs, asks the core, stores what has changed.

The caller gives a `Storage` of the current key; with Flink that is keyed state. The state is the
truth at every moment: everything is written before a call returns, so a checkpoint between two
calls is complete. A key with many elements is also kept in memory, so that its events need not
read all of it again. No Flink in here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Protocol

from schemas.events import ActionEvent, RequestEvent
from udfs.core import join_core
from udfs.core.alone import settle_alone
from udfs.core.join_core import Accepted, Decisions, Hold, Refused
from udfs.core.key_state import KeyState
from udfs.core.matching import JoinRules
from udfs.core.state_codec import (
    LogEntry,
    StoredRequest,
    pack_entry,
    pack_request,
    unpack_log,
    unpack_request,
)
from udfs.core.trust import Trust

#: Keys with at most this many elements (`len` of a `KeyState`) are read anew for each event.
SMALL = 16
#: Of so many keys the length of the log is remembered, for each subtask.
LENGTHS = 200_000
#: How much memory the keys in memory may take, in bytes by estimate, for each subtask.
MEMORY = 256 * 1024 * 1024


class Storage(Protocol):
    """The stored state of the current key."""

    def request(self, request_id: str) -> bytes | None:
        """A stored request, or None."""

    def requests(self) -> Iterable[bytes]:
        """All stored requests of the key, in no order."""

    def put_request(self, request_id: str, blob: bytes) -> None:
        """Store a request, over what was stored by that id."""

    def remove_request(self, request_id: str) -> None:
        """Forget a request."""

    def log(self) -> Sequence[bytes]:
        """The entries of the log, the oldest first."""

    def log_length(self) -> int | None:
        """How many entries the log has; None if that must be counted."""

    def count_log(self) -> int:
        """The same, which may read all of the log."""

    def append_to_log(self, blob: bytes) -> None:
        """Add an entry at the end of the log."""

    def replace_log(self, blobs: list[bytes]) -> None:
        """Replace the log; an empty list clears it."""


class KeyedJoin:
    """One subtask's join. `small` and `memory`: see `SMALL` and `MEMORY`."""

    def __init__(
        self, rules: JoinRules, storage: Storage, *, small: int = SMALL, memory: int = MEMORY
    ) -> None:
        self._rules = rules
        self._storage = storage
        self._by_request = rules.key == "request_id"
        self._small = small
        self._memory = memory
        # The keys in memory, the least recently used first, with the weight that is in `_weight`.
        self._kept: OrderedDict[str, tuple[KeyState, int]] = OrderedDict()
        self._weight = 0
        # Of keys that are not in memory, and whose logs do not come along: how long the log is.
        self._lengths: dict[str, int] = {}
        self._largest = 0

    def take_largest(self) -> int:
        """The elements of the largest key that was seen since the last call; 0: no large one was.

        A key is seen when it is read as a whole, or is in memory. Of one with a long log that an
        action is only appended to, it is the length of the log.
        """
        largest, self._largest = self._largest, 0
        return largest

    @property
    def keys_in_memory(self) -> bool:
        """Whether any key is in memory.

        If not, `request` and `timer` need not be given the key of a `user_id` join.
        """
        return bool(self._kept)

    def in_memory(self, key: str) -> bool:
        """Whether this key is kept, so that its next event reads nothing of its log."""
        return key in self._kept

    def request(self, key: str, event: RequestEvent, watermark: int) -> Accepted | Refused:
        """Handle a request. It is stored if it is accepted."""
        state = self._take(key) if self._kept else None
        if state is None:
            blob = self._storage.request(event.request_id)
            twin = None if blob is None else unpack_request(blob)
        else:
            twin = state.request(event.request_id)
        verdict = join_core.request_arrives(event, twin, watermark, self._rules)
        if isinstance(verdict, Accepted):
            self._storage.put_request(event.request_id, pack_request(verdict.request))
            if state is not None:
                state.accept(verdict.request)
        if state is not None:
            self._keep(key, state, ())
        return verdict

    def action(
        self, key: str, event: ActionEvent, watermark: int, trust: Trust
    ) -> Hold | Decisions:
        """Handle an action. `Hold`: it was stored, and only its timer must be set."""
        state = self._take(key) if self._kept else None
        if state is None:
            known = self._requests(key)
            if len(known) <= self._small:
                hold = join_core.hold_without_asking(event, known, watermark, self._rules)
                if hold is not None and self._has_room(key):
                    self._storage.append_to_log(pack_entry(event))
                    return hold
            state = KeyState(self._rules, known, unpack_log(self._storage.log()))
        return self._store(key, state, join_core.action_arrives(state, event, watermark, trust))

    def timer(self, key: str, now: int, *, at_end: bool, trust: Trust) -> Decisions | None:
        """Handle a timer. None: there is nothing to perform."""
        state = self._take(key) if self._kept else None
        if state is None:
            requests, stored = self._requests(key), self._storage.log()
            if not stored and len(requests) <= self._small and _all_settled(requests):
                self._forget(requests, now)
                return None
            log = unpack_log(stored)
            if self._is_small(requests, log):
                alone = settle_alone(requests, log, now, self._rules, at_end=at_end, trust=trust)
                if alone is not None:
                    tombstone, decisions = alone
                    self._storage.put_request(tombstone.request_id, pack_request(tombstone))
                    if log:
                        self._lengths.pop(key, None)
                        self._storage.replace_log([])
                    return decisions
            state = KeyState(self._rules, requests, log)
        decisions = join_core.time_reaches(state, now, at_end=at_end, trust=trust)
        return self._store(key, state, decisions)

    def _has_room(self, key: str) -> bool:
        """Rule 16, for an action that is to be appended to the log of a key that is not in memory,
        and has no tombstones. False: it may have none, so the log must be read.

        The log may have copies, and what is not held any more, so this errs on that side only.
        """
        length = self._storage.log_length()
        if length is None:
            # A long log is counted once, and not read for each action.
            length = self._lengths.pop(key, None)
            if length is None:
                length = self._storage.count_log()
            then = length + (length < self._rules.max_actions)
            self._lengths[key] = then
            self._largest = max(self._largest, then)
            if len(self._lengths) > LENGTHS:
                del self._lengths[next(iter(self._lengths))]
        return length < self._rules.max_actions

    def _requests(self, key: str) -> list[StoredRequest]:
        if self._by_request:
            blob = self._storage.request(key)
            return [] if blob is None else [unpack_request(blob)]
        return [unpack_request(blob) for blob in self._storage.requests()]

    def _is_small(self, requests: list[StoredRequest], log: list[LogEntry]) -> bool:
        """Whether the key is surely not one to be kept in memory."""
        elements = len(requests) + len(log)
        for request in requests:
            elements += len(request.used)
        return elements <= self._small

    def _forget(self, tombstones: list[StoredRequest], now: int) -> None:
        """Handle a timer that only removes a tombstone, as half of all timers do."""
        for tombstone in tombstones:
            if tombstone.forget_time <= now:
                self._storage.remove_request(tombstone.request_id)

    def _store(self, key: str, state: KeyState, decisions: Decisions) -> Decisions:
        """Store what has changed.

        Before that, rows and late actions get the bodies that they need, because a tombstone may be
        stored without one.
        """
        storage, writes = self._storage, state.take_writes()
        if writes.log or writes.log_is_whole:
            self._lengths.pop(key, None)
        for emitted in decisions.emitted:
            if emitted.body is None:
                emitted.body = self._stored_body(emitted.request)
        for late in decisions.late:
            if late.body is None:
                late.body = self._stored_body(late.request)
        for request in writes.requests:
            if request.body is None:
                request.body = self._stored_body(request)
            storage.put_request(request.request_id, pack_request(request))
        for request_id in writes.removed:
            storage.remove_request(request_id)
        if writes.log_is_whole:
            storage.replace_log([pack_entry(entry) for entry in writes.log])
        else:
            for entry in writes.log:
                storage.append_to_log(pack_entry(entry))
        self._keep(key, state, writes.requests)
        return decisions

    def _stored_body(self, request: StoredRequest) -> bytes:
        blob = self._storage.request(request.request_id)
        if blob is None:
            raise ValueError(f"request {request.request_id!r} is not in state")
        return unpack_request(blob).body or b""

    def _take(self, key: str) -> KeyState | None:
        """The key, if it is in memory.

        It is put back after everything is stored. After an exception, no key must stay in memory
        that differs from the state.
        """
        state, weight = self._kept.pop(key, (None, 0))
        self._weight -= weight
        return state

    def _keep(self, key: str, state: KeyState, stored: Iterable[StoredRequest]) -> None:
        elements = len(state)
        if elements <= self._small:
            return
        self._largest = max(self._largest, elements)
        state.drop_bodies(stored)
        weight = state.weight
        self._kept[key] = state, weight
        self._weight += weight
        while self._weight > self._memory:
            _, (_, freed) = self._kept.popitem(last=False)
            self._weight -= freed


def _all_settled(requests: list[StoredRequest]) -> bool:
    for request in requests:  # noqa: SIM110 - all() with a generator takes twice as long
        if not request.settled:
            return False
    return True
