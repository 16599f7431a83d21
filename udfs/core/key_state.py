"""What is known about one join key: its requests, its tombstones and its held actions. Pure.

The join core asks it questions and tells it what was decided; it records what must be stored. It is
built from stored state, and can be kept in memory if every change goes through it. No operation
looks at everything that the key has (docs/architecture.md, "State of a key").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

from schemas.events import ActionEvent, RequestFront, unpack_front
from schemas.labels import Tally
from udfs.core.held import Held, HeldActions
from udfs.core.matching import JoinRules, LateReason, late_reason
from udfs.core.shown import Shown
from udfs.core.state_codec import LogEntry, StoredRequest

#: The actions of a request: a tally by kind of action and by position.
Tallies = dict[str, dict[int, Tally]]


@dataclass(slots=True)
class Writes:
    """What to store. `log`: entries to append; with `log_is_whole` they replace the whole log."""

    requests: list[StoredRequest]
    removed: list[str]
    log: list[LogEntry]
    log_is_whole: bool


class KeyState:
    """The state of one key. Times are epoch ms. Requests and actions passed in become its own."""

    def __init__(
        self,
        rules: JoinRules,
        requests: Iterable[StoredRequest] = (),
        log: Iterable[LogEntry] = (),
    ) -> None:
        self.rules = rules
        self.held = HeldActions(log, watch_known=rules.on_arrival)
        self.pending = Shown()
        self.tombstones = Shown()
        #: The request ids of tombstones, by the identities of the actions that they used.
        self.used: dict[int, str] = {}
        #: Whether nothing was decided since this was read from state.
        self.is_fresh = True
        #: The fronts of the bodies of pending requests, as far as the bodies are in memory.
        self.fronts: dict[str, RequestFront] = {}
        # Of requests that have opened, and get rows on arrival: their known actions.
        self._tallies: dict[str, Tallies] = {}
        self._openings: list[tuple[int, str]] = []
        self._deadlines: list[tuple[int, int, str]] = []
        self._forget_times: list[tuple[int, str]] = []
        # Held past C_a because a pending request still matches. Such a request was accepted before
        # the configuration changed, with longer windows or more lateness.
        self._overdue: list[Held] = []
        self._changed: dict[str, StoredRequest] = {}
        self._removed: list[str] = []
        self._items = 0
        self._has_bodies = True
        for request in requests:
            self._read(request)
        if len(self.pending) + len(self.tombstones) > 1:
            heapify(self._openings)
            heapify(self._deadlines)
            heapify(self._forget_times)
        if self.used:
            for held in [held for held in self.held if held.name in self.used]:
                self.held.turns_out_duplicate(held)

    def __len__(self) -> int:
        """How many elements it has: requests, held actions, and identities of used actions."""
        return len(self.pending) + len(self.tombstones) + len(self.held) + len(self.used)

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes, without bodies."""
        requests = len(self.pending) + len(self.tombstones)
        return 500 * requests + 80 * self._items + 60 * len(self.used) + self.held.weight

    # -- questions ---------------------------------------------------------------------------------

    def request(self, request_id: str) -> StoredRequest | None:
        """The request with this id, pending or settled."""
        return self.pending.get(request_id) or self.tombstones.get(request_id)

    def claimant(self, action: ActionEvent) -> StoredRequest | None:
        """Rules 1 and 2: the pending request that would take the action now.

        Of the requests that show the item, and are not later than the action by more than the skew,
        it is the latest. If the latest one's window is over, so are the windows of the others.
        """
        window = self.rules.windows.get(action.action)
        if window is None:
            return None
        latest = self.pending.latest(action.item_id, action.event_time + self.rules.skew)
        if latest is None or action.event_time > latest.event_time + window:
            return None
        return latest

    def named_by(self, action: ActionEvent) -> tuple[StoredRequest, LateReason] | None:
        """Rule 5: the tombstone that names a late action, and why.

        It is the latest that shows the item: an earlier one matches only if the latest one matches
        too.
        """
        latest = self.tombstones.latest(action.item_id, action.event_time + self.rules.skew)
        reason = None if latest is None else late_reason(action, latest, self.rules)
        return None if latest is None or reason is None else (latest, reason)

    def claimed(self, request: StoredRequest, now: int) -> list[tuple[int, Held]]:
        """The actions that a pending request knows at `now` (rule 14), each with its position.

        At its deadline these are all actions that it joins.
        """
        skew = self.rules.skew
        return self._taken(request, request.event_time - skew, now - skew + 1)

    def times_to_be_known(self, request: StoredRequest, now: int) -> list[int]:
        """The times after `now` at which further held actions become known to the request."""
        skew = self.rules.skew
        last = request.event_time + self.rules.longest_window
        later = self._taken(request, now - skew + 1, last + 1)
        return [held.action.event_time + skew for _, held in later]

    def _taken(self, request: StoredRequest, start: int, end: int) -> list[tuple[int, Held]]:
        """The held actions with `start` <= event time < `end` that the request takes, with
        positions.

        For each item they end where the next request that shows the item begins to take them.
        """
        skew, windows, time = self.rules.skew, self.rules.windows, request.event_time
        start, end = max(start, time - skew), min(end, time + self.rules.longest_window + 1)
        taken: list[tuple[int, Held]] = []
        if not self.held.is_indexed:
            is_alone, items = len(self.pending) == 1, request.items
            for held in self.held:
                action = held.action
                window = windows.get(action.action)
                if (
                    window is not None
                    and start <= action.event_time < end
                    and action.event_time <= time + window
                    and action.item_id in items
                    and (is_alone or self.claimant(action) is request)
                ):
                    taken.append((items.index(action.item_id), held))
            return taken
        for item in self.held.items_among(request.items):
            until = end
            if len(self.pending) > 1:
                following = self.pending.after(item, request.rank)
                if following is not None:
                    until = min(end, following.event_time - skew)
            position = -1
            for action_time, _, held in self.held.between(item, start, until):
                window = windows.get(held.action.action)
                if window is not None and action_time <= time + window:
                    if position < 0:
                        position = request.items.index(item)  # the lowest that shows it
                    taken.append((position, held))
        return taken

    def tallies(self, request: StoredRequest, now: int) -> Tallies:
        """As `claimed`, but as tallies. They are kept if rows are made on arrival."""
        tallies = self._tallies.get(request.request_id)
        if tallies is None:
            tallies = self.tally(self.claimed(request, now))
            if self.rules.on_arrival:
                self._tallies[request.request_id] = tallies
        return tallies

    def tally(self, claimed: Iterable[tuple[int, Held]]) -> Tallies:
        """The labels of these actions, by the position of the impression that they belong to."""
        tallies: Tallies = {}
        for position, held in claimed:
            add_to(tallies, self.rules, position, held.action)
        return tallies

    def has_room_for(self, name: int) -> bool:
        """Rule 16: whether an action of this identity may be held. A copy takes no room."""
        return len(self.held) + len(self.used) < self.rules.max_actions or self.held.has(name)

    # -- what time brings --------------------------------------------------------------------------

    def become_known(self, now: int) -> list[Held]:
        """Rule 14: the actions that have become known by `now`."""
        if not self.rules.on_arrival:
            return []
        known = self.held.take_known(now - self.rules.skew)
        for held in known:
            self.is_known(held)
        return known

    def is_known(self, held: Held) -> StoredRequest | None:
        """Count a known action for the request that takes it. Returns that request."""
        request = self.claimant(held.action)
        if request is not None:
            tallies = self._tallies.get(request.request_id)
            if tallies is not None:
                position = request.items.index(held.action.item_id)
                add_to(tallies, self.rules, position, held.action)
        return request

    def take_openings(self, now: int) -> list[StoredRequest]:
        """Pending requests whose first moment has come, each once."""
        due = _take(self._openings, now)
        found = [self.pending.get(request_id) for _, request_id in due]
        return [r for r in found if r is not None and not r.versions]

    def take_deadlines(self, now: int) -> list[StoredRequest]:
        """Pending requests that must settle, in order, each once."""
        found = [self.pending.get(request_id) for _, _, request_id in _take(self._deadlines, now)]
        return [request for request in found if request is not None]

    def take_forgotten(self, now: int) -> None:
        """Remove the tombstones whose time is over."""
        for _, request_id in _take(self._forget_times, now):
            request = self.tombstones.get(request_id)
            if request is None:
                continue
            for name in (*request.used, *self.held.used.get(request_id, ())):
                if self.used.get(name) == request_id:
                    del self.used[name]
            self.held.forget(request_id)
            self.tombstones.remove(request)
            self._items -= len(request.items)
            self._changed.pop(request_id, None)
            self._removed.append(request_id)

    # -- changes -----------------------------------------------------------------------------------

    def accept(self, request: StoredRequest) -> None:
        """Add a new request. The caller has stored it."""
        self._read(request, heappush)
        if self._tallies:
            self._actions_change_hands(request)

    def change(self, request: StoredRequest) -> None:
        """Mark a request, so that it is stored again."""
        self._changed[request.request_id] = request

    def hold(self, action: ActionEvent, name: int) -> Held:
        """Hold an action. `name`: a number that all its duplicates share.

        If it takes the place of its duplicate, the tallies with that one in them are dropped.
        """
        held, twin = self.held.hold(action, name)
        if twin is not None and self._tallies:
            was_with = self.claimant(twin.action)
            if was_with is not None:
                self._tallies.pop(was_with.request_id, None)
        return held

    def settle(self, request: StoredRequest, claimed: list[tuple[int, Held]]) -> None:
        """Turn a request into a tombstone, and join the actions to it."""
        self.pending.remove(request)
        self.fronts.pop(request.request_id, None)
        if self._tallies:
            self._tallies.pop(request.request_id, None)
            self._actions_change_hands(request)
        used = [held.name for _, held in claimed]
        self.used.update(dict.fromkeys(used, request.request_id))
        if len(used) == len(self.held):
            self.held.release_all()
        else:
            for _, held in claimed:
                self.held.release(held)
        request.settle(used, keep_features=self.rules.keep_features)
        self.tombstones.add(request)
        heappush(self._forget_times, (request.forget_time, request.request_id))
        self.change(request)

    def name_late(self, held: Held, request: StoredRequest) -> None:
        """The tombstone names the late action, which is released."""
        self.held.release(held)
        self.used[held.name] = request.request_id
        if request.request_id in self._changed:
            request.used.append(held.name)
        else:
            # Only the identity is appended to the log: the tombstone may be long.
            self.held.use(request.request_id, held.name)

    def is_overdue(self, held: Held) -> None:
        """`take_overdue` will return this action."""
        self._overdue.append(held)

    def take_overdue(self) -> list[Held]:
        """Actions that are held past C_a, each once."""
        overdue, self._overdue = self._overdue, []
        return overdue

    def take_duplicates(self) -> list[ActionEvent]:
        """Held actions that turned out to be duplicates. They are released."""
        duplicates, self.held.duplicates = self.held.duplicates, []
        for held in duplicates:
            self.held.release(held)
        return [held.action for held in duplicates]

    def drop_bodies(self, stored: Iterable[StoredRequest]) -> None:
        """Do not keep bodies in memory any more; they must be in state.

        `stored`: what was stored since the last call.
        """
        if self._has_bodies:
            self._has_bodies = False
            stored = (*self.pending, *self.tombstones)
        for request_id in self.fronts:
            request = self.pending.get(request_id)
            if request is not None:
                request.body = None
        self.fronts.clear()
        for request in stored:
            if request.body:  # the body of a tombstone is empty
                request.body = None

    def take_writes(self) -> Writes:
        """What has changed since the last call."""
        log, whole = self.held.take_log()
        writes = Writes(list(self._changed.values()), self._removed, log, whole)
        self._changed, self._removed = {}, []
        return writes

    def _read(self, request: StoredRequest, push: Any = list.append) -> None:
        request_id = request.request_id
        if request.settled:
            self.tombstones.add(request)
            push(self._forget_times, (request.forget_time, request_id))
            for name in (*request.used, *self.held.used.get(request_id, ())):
                self.used[name] = request_id
        else:
            if request.body is not None:
                front = unpack_front(request.body)
                request.user_id, request.items = front.user_id, front.items
                self.fronts[request_id] = front
            self.pending.add(request)
            push(self._deadlines, (request.deadline, request.event_time, request_id))
            if request.emit_at is not None and not request.versions:
                push(self._openings, (request.emit_at, request_id))
        self._items += len(request.items)

    def _actions_change_hands(self, request: StoredRequest) -> None:
        """A request was added or removed, so the actions of the one before it have changed.

        Its tallies are computed again when they are needed.
        """
        for item in dict.fromkeys(request.items):
            before = self.pending.before(item, request.rank)
            if before is not None:
                self._tallies.pop(before.request_id, None)


def add_to(tallies: Tallies, rules: JoinRules, position: int, action: ActionEvent) -> None:
    """Counts an action for the impression at a position."""
    of_kind = tallies.get(action.action)
    if of_kind is None:
        of_kind = tallies[action.action] = {}
    tally = of_kind.get(position)
    if tally is None:
        tally = of_kind[position] = Tally(rules.labels[action.action])
    tally.add(action.event_time, action.value)


def _take(heap: list[Any], until: int) -> list[Any]:
    """Remove from a heap everything with a time of at most `until`, in order."""
    taken = []
    while heap and heap[0][0] <= until:
        taken.append(heappop(heap))
    return taken
