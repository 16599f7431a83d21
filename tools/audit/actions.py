"""Which sample can hold an action, and which actions are accounted for elsewhere?

Worked out from event times alone, as docs/join-semantics.md has it when all come within the bounds.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction

from schemas import samples
from schemas.actions import Label
from schemas.events import ActionEvent
from schemas.sample_id import sample_id
from tools.audit.eras import Eras
from tools.audit.output import Output, hour_of
from tools.audit.progress import Progress
from tools.audit.records import Action, Request, Source
from tools.audit.report import Report, place

Value = float | None

#: Number of the kind, number of the impression.
Cell = tuple[int, int]

WITHOUT: dict[Label, Value] = {"any": 0.0, "count": 0.0, "sum": 0.0, "max": None, "last": None}


def label_of(label: Label, actions: Sequence[ActionEvent]) -> Value:
    """Rule 7: one kind's label of an impression that has these actions."""
    if not actions:
        return WITHOUT[label]
    if label == "any":
        return 1.0
    if label == "count":
        return float(len(actions))
    values = [(a.event_time, a.value) for a in actions if a.value is not None]
    if label == "sum":
        return _sum(value for _, value in values)
    return max(value for _, value in values) if label == "max" else max(values)[1]


def _sum(values: Iterable[float]) -> float:
    """Rounded once; beyond float64 it is the largest float64 of that sign (rule 7)."""
    exact = sum(map(Fraction, values), Fraction())
    try:
        return float(exact)
    except OverflowError:
        return sys.float_info.max if exact > 0 else -sys.float_info.max


class Requests:
    """The accepted requests by join key. `by_user`: whether that is the user id."""

    def __init__(self, eras: Eras, source: Source) -> None:
        self.by_user = eras.present.join.key == "user_id"
        self._skew = eras.skew
        self._windows = eras.windows
        by_key: dict[str, list[Request]] = defaultdict(list)
        for request in source.accepted:
            if not request.missing:
                by_key[request.user_id if self.by_user else request.request_id].append(request)
        self._by_key = dict(by_key)
        for requests in self._by_key.values():
            requests.sort(key=lambda r: (r.event_time, r.request_id))

    def key(self, action: ActionEvent) -> str:
        """The join key of an action: its user id or its request id."""
        return action.user_id if self.by_user else (action.request_id or "")

    def that_match(self, action: ActionEvent) -> list[Request]:
        """Rule 1, the first in the rank of rule 2 first."""
        requests = self._by_key.get(self.key(action), [])
        first = bisect_left(
            requests, action.event_time - self._windows[action.action], key=_time_of
        )
        end = bisect_right(requests, action.event_time + self._skew, key=_time_of)
        return [r for r in reversed(requests[first:end]) if action.item_id in r.items]

    def of(self, key: str) -> list[Request]:
        """All of a join key, by time."""
        return self._by_key.get(key, [])

    def named(self, key: str, request_id: str, time: int) -> Request | None:
        """The request with this join key, id and time, or None."""
        found = (r for r in self._by_key.get(key, ()) if r.request_id == request_id)
        return next((r for r in found if r.event_time == time), None)


def _time_of(request: Request) -> int:
    return request.event_time


def take_late(
    eras: Eras, source: Source, requests: Requests, output: Output, report: Report
) -> None:
    """Finds the action of every row of `late_actions/`; a row takes one that is still open."""
    by_user = eras.present.join.key == "user_id"
    windows = [{kind.name: kind.window_ms for kind in p.kinds} for p in eras.pipelines]
    waiting: dict[tuple[object, ...], list[Action]] = defaultdict(list)
    for action in source.actions:
        if action.open:
            waiting[_content(action.event, requests)].append(action)
    account = report.account("rows in late_actions/")
    for file, row in output.rows("late_actions", samples.LATE_ACTIONS):
        account.came_in += 1
        key = row["user_id"] if by_user else row["request_id"]
        names = ("item_id", "action", "value", "event_time", "event_id")
        actions = waiting.get((key, *(row[name] for name in names)))
        request = requests.named(key, row["request_id"], row["request_time"])
        why = None
        if not actions:
            why = "no action of the source is still open for it"
        elif request is None:
            why = "no accepted request has its request_id and time"
        elif row["position"] != _position(request, row["item_id"]):
            why = "its request does not show the item there"
        elif row["sample_id"] != sample_id(request.request_id, row["item_id"], row["position"]):
            why = "its sample_id is another"
        elif request.user_id != row["user_id"]:
            why = f"its request is of user {request.user_id!r}"
        elif row["delay_ms"] != row["event_time"] - row["request_time"]:
            why = "its delay_ms is not the time from the request to the action"
        elif row["reason"] not in {
            "after_settle" if row["delay_ms"] <= of.get(row["action"], -1) else "outside_window"
            for of in windows
        }:
            why = f"its reason is {row['reason']!r}, its delay says otherwise"
        elif file.hour != hour_of(row["request_time"]):
            why = "lies in the partition of another hour"
        if actions:
            action = actions.pop(0)
            action.reason, action.late_of = f"late: {row['reason']}", row["request_time"]
        if why is None:
            account.went["of an action in the source"] += 1
        else:
            name = row["event_id"] or f"{row['action']} {row['item_id']} at {row['event_time']}"
            report.find("late row", str(name), file.name, why)


def _position(request: Request, item_id: str) -> int:
    return request.items.index(item_id) if item_id in request.items else -1


def _content(action: ActionEvent, requests: Requests) -> tuple[object, ...]:
    """What a row of late_actions/ says of its action; the user in it is the request's."""
    a = action
    return (requests.key(a), a.item_id, a.action, a.value, a.event_time, a.event_id)


def identity_of(action: ActionEvent) -> tuple[object, ...]:
    """Rule 6: what makes two records the same action."""
    if action.event_id is not None:
        return ("event", action.event_id)
    a = action
    return ("tuple", a.user_id, a.item_id, a.request_id, a.action, a.event_time)


class Assignment:
    """Every open action with the sample that holds it.

    `cells`: the actions by kind and impression. At first every action is given to the latest
    request that matches, as rule 2 has it within the bounds.
    `choices`: the actions that an earlier request may hold instead, since the later one may have
    come when that one had settled: each with its possible cells, the latest first.
    `once`: by cell, actions that its earlier rows may hold though it does not hold them at the end:
    a later request from beyond the bounds has taken them, or they turned out to be duplicates, or
    late under another configuration.
    `went` counts where actions are.
    """

    def __init__(self, eras: Eras, source: Source, requests: Requests, progress: Progress) -> None:
        self._eras = eras
        self._kinds = {kind.name: k for k, kind in enumerate(eras.present.kinds)}
        self._source = source
        self._requests = requests
        self._progress = progress
        self.cells: dict[Cell, list[Action]] = defaultdict(list)
        self.choices: list[tuple[Action, tuple[Cell, ...]]] = []
        self.once: dict[Cell, list[Action]] = defaultdict(list)
        self.went: Counter[str] = Counter()

    def assign(self, report: Report) -> None:
        """Gives every open action to a cell, or names it."""
        copies = self._copies(report)
        not_held = []
        for action in self._source.actions:
            if action.reason is not None:
                late = action.late_of is not None
                self.went[action.reason if late else f"rejected: {action.reason}"] += 1
                if action.reason == "duplicate_action" or self._eras.several:
                    not_held.append(action)
            elif id(action) not in copies:
                self._give(action, report)
        for action in not_held:
            self._was_held(action)

    def _give(self, action: Action, report: Report) -> None:
        event = action.event
        matching = self._requests.that_match(event)
        if not matching:
            if self._progress.decided(event.event_time, event.origin):
                report.find(
                    "action",
                    name_of(event),
                    place(event.origin),
                    "neither in late_actions/ nor in rejected/, and no sample can hold it",
                )
            else:
                self.went["pending"] += 1
            return
        cells = [self._cell(request, event) for request in matching]
        self.cells[cells[0]].append(action)
        possible = cells[:1]
        # what the watermark had reached at most when the later ones of the requests arrived
        reached = math.inf
        for later, request, cell in zip(matching, matching[1:], cells[1:], strict=False):
            reached = min(reached, later.reached)
            # under another skew the later one may not have matched
            if self._eras.several or reached >= request.event_time + self._eras.least_wait:
                possible.append(cell)
            if self._eras.several or reached >= event.event_time + self._eras.least_skew:
                self.once[cell].append(action)
        if len(possible) > 1:
            self.choices.append((action, tuple(possible)))

    def _was_held(self, action: Action) -> None:
        """Rule 6: a held action gives way to a lesser one with its identity that comes later. And
        what was in a row may be late or an orphan in the end, if windows have become shorter.
        """
        event = action.event
        for request in self._requests.that_match(event):
            cell = self._cell(request, event)
            if not any(_same_but_origin(event, a.event) for a in self.cells.get(cell, ())):
                self.once[cell].append(action)

    def _cell(self, request: Request, event: ActionEvent) -> Cell:
        return self._kinds[event.action], request.first + request.items.index(event.item_id)

    def _copies(self, report: Report) -> set[int]:
        """Rule 6: an action counts once, as long as it is remembered; copies that are neither
        rejected nor pending are named, and left out.
        """
        by_identity: dict[tuple[object, ...], list[Action]] = defaultdict(list)
        for action in self._source.actions:
            key = (self._requests.key(action.event), *identity_of(action.event))
            by_identity[key].append(action)
        out: set[int] = set()
        for twins in by_identity.values():
            if len(twins) == 1 and twins[0].reason != "duplicate_action":
                continue
            if all(action.reason == "duplicate_action" for action in twins):
                for action in twins:
                    why = "rejected as duplicate_action, but it is not counted anywhere else"
                    report.find("action", name_of(action.event), place(action.event.origin), why)
                continue
            counted: list[Action] = []
            for action in sorted(twins, key=_first_counts):
                if not action.open and action.late_of is None:
                    continue
                twin = next((c for c in counted if not self._may_both_count(c, action)), None)
                if twin is None:
                    counted.append(action)
                    continue
                out.add(id(action))
                self._name_copy(action, twin, report)
        return out

    def _counted_at(self, action: Action) -> list[int]:
        """The times of the requests that may count it."""
        if action.late_of is not None:
            return [action.late_of]
        matching = self._requests.that_match(action.event)
        return [request.event_time for request in matching] or [action.event.event_time]

    def _may_both_count(self, one: Action, other: Action) -> bool:
        """Whether one may have come when the tombstone of the other's request had gone. A request
        that takes it then is later than that one by H + S; a tombstone that names it late, since it
        is still there, is just later.
        """

        def follows(first: Action, second: Action) -> bool:
            apart = 0 if second.late_of is not None else self._eras.remembered
            return max(self._counted_at(second)) - min(self._counted_at(first)) > apart

        return follows(one, other) or follows(other, one)

    def _name_copy(self, action: Action, twin: Action, report: Report) -> None:
        event = action.event
        matching = self._requests.that_match(event)
        held = not self._progress.decided(event.event_time, event.origin) or any(
            not self._progress.settled(request) for request in matching
        )
        if held and self._progress.watermark is not None:
            self.went["pending"] += 1
            return
        why = f"a copy of {place(twin.event.origin)}, and not in rejected/"
        report.find("action", name_of(event), place(event.origin), why)


def _same_but_origin(one: ActionEvent, other: ActionEvent) -> bool:
    return (
        one.event_time == other.event_time
        and one.value == other.value
        and identity_of(one) == identity_of(other)
    )


def _first_counts(action: Action) -> tuple[object, ...]:
    """What is written down as late counts for certain; then rule 6's order."""
    event = action.event
    value = (event.value is not None, event.value or 0.0)
    late = action.late_of is None
    return (late, event.event_time, event.action, event.item_id, value)


def name_of(action: ActionEvent) -> str:
    """Its event id, or what it says."""
    return action.event_id or f"{action.action} of {action.item_id} by {action.user_id}"
