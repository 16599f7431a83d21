"""Runs timelines through the join core without Flink: keyed state, timers, watermarks as Flink's.

Timers fire when the watermark reaches them, in the order of their times (then of registration, as
Flink promises no order among keys); state and timers must be empty at the very end.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from schemas.actions import ActionKind
from schemas.events import ActionEvent, Origin, RequestEvent
from tests.timeline import (
    END,
    Action,
    ActionIdentity,
    LateAction,
    Outcome,
    Rejection,
    Request,
    Row,
    Rules,
    Timeline,
    Watermark,
)
from udfs import join_core as core
from udfs.matching import JoinRules
from udfs.state_codec import pack_action, pack_request, unpack_action, unpack_request

FOREVER = 2**63 - 1
NOWHERE = Origin("timeline", None, 0)
_NOTHING = msgspec.msgpack.encode([])


def core_rules(rules: Rules) -> JoinRules:
    kinds = tuple(ActionKind(k, w, rules.labels[k]) for k, w in rules.windows.items())
    return JoinRules(rules.key, kinds, rules.skew, rules.lateness, rules.horizon)


def request_event(request: Request) -> RequestEvent:
    names, none = msgspec.Raw(_NOTHING), list[object]()
    body = (request.user_id, list(request.items), names, none, names, none)
    return RequestEvent(
        request.request_id,
        request.event_time,
        msgspec.msgpack.encode(body),
        NOWHERE,
        msgspec.json.encode(request),
    )


def action_event(action: Action) -> ActionEvent:
    return ActionEvent(
        action.event_id,
        action.user_id,
        action.item_id,
        action.request_id,
        action.action,
        action.value,
        action.event_time,
        NOWHERE,
        b"",
    )


@dataclass
class _Key:
    requests: dict[str, bytes] = field(default_factory=dict)
    held: list[bytes] = field(default_factory=list)


class CoreRunner:
    """One join of one timeline. `state` and `timers` can be looked at between events."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.core_rules = core_rules(rules)
        self.state: dict[str, _Key] = defaultdict(_Key)
        self.timers: list[tuple[int, int, str]] = []
        self._registered: set[tuple[int, str]] = set()
        self.watermark = -(2**63)
        self.progress: int | None = None
        self.rows: list[Row] = []
        self.late: list[LateAction] = []
        self.rejected: list[Rejection] = []
        self.dropped = self.joined = self.settled = self.impressions = 0

    def run(self, timeline: Timeline) -> Outcome:
        self.progress = timeline.progress
        counts = {"requests": 0, "actions": 0}
        for event in timeline.events:
            if isinstance(event, Watermark):
                self._advance(event.time)
            elif isinstance(event, Request):
                counts["requests"] += 1
                self._request(event)
            else:
                counts["actions"] += 1
                self._action(event)
        self._advance(FOREVER)
        assert not self.timers
        left = {k: s for k, s in self.state.items() if s.requests or s.held}
        assert not left, f"state is left after the last timer: {left}"
        counters = {
            **counts,
            "settled": self.settled,
            "impressions": self.impressions,
            "rows": len(self.rows),
            "immature_dropped": self.dropped,
            "joined": self.joined,
            "late": len(self.late),
        }
        for rejection in sorted(self.rejected, key=lambda r: r.reason):
            name = f"rejected.{rejection.reason}"
            counters[name] = counters.get(name, 0) + 1
        return Outcome(tuple(self.rows), tuple(self.late), tuple(self.rejected), counters)

    def _wake(self, at: int, key: str) -> None:
        if (at, key) not in self._registered:
            self._registered.add((at, key))
            heapq.heappush(self.timers, (at, len(self._registered), key))

    def _advance(self, watermark: int) -> None:
        self.watermark = watermark
        while self.timers and self.timers[0][0] <= watermark:
            at, _, key = heapq.heappop(self.timers)
            self._registered.discard((at, key))
            self._decide(key, at, [unpack_action(b) for b in self.state[key].held])

    def _request(self, request: Request) -> None:
        event = request_event(request)
        key = request.request_id if self.rules.key == "request_id" else request.user_id
        state = self.state[key]
        blob = state.requests.get(request.request_id)
        verdict = core.request_arrives(
            event,
            list(request.items),
            None if blob is None else unpack_request(blob),
            self.watermark,
            self.core_rules,
        )
        if isinstance(verdict, str):
            self.rejected.append(Rejection("features", verdict, request))
            return
        state.requests[request.request_id] = pack_request(verdict)
        self._wake(verdict.deadline, key)

    def _action(self, action: Action) -> None:
        key = (action.request_id or "") if self.rules.key == "request_id" else action.user_id
        state = self.state[key]
        event = action_event(action)
        known = [unpack_request(b) for b in state.requests.values()]
        hold = core.action_arrives(event, known, self.watermark, self.core_rules)
        if hold is None:
            self._decide(key, self.watermark, [*map(unpack_action, state.held), event])
            return
        state.held.append(pack_action(event))
        if hold.wake_at is not None:
            self._wake(hold.wake_at, key)

    def _decide(self, key: str, now: int, held: Sequence[ActionEvent]) -> None:
        state = self.state[key]
        known = [unpack_request(b) for b in state.requests.values()]
        decisions = core.decide(
            known,
            held,
            now,
            self.core_rules,
            at_end=self.watermark == FOREVER,
            progress=self.progress,
        )
        for request in decisions.changed:
            state.requests[request.request_id] = pack_request(request)
        for request_id in decisions.forgotten:
            del state.requests[request_id]
        if decisions.held is not None:
            state.held = [pack_action(a) for a in decisions.held]
        for at in decisions.wake_at:
            self._wake(at, key)
        for settled in decisions.settled:
            self._rows(settled)
        for late in decisions.late:
            self.late.append(
                LateAction(
                    (late.request.request_id, late.position),
                    late.request.event_time,
                    self._identity(late.action),
                    late.action.event_time - late.request.event_time,
                    late.reason,
                )
            )
        for reason, actions in (
            ("orphan_action", decisions.orphans),
            ("duplicate_action", decisions.duplicates),
        ):
            self.rejected += [Rejection("actions", reason, self._identity(a)) for a in actions]

    def _rows(self, settled: core.Settled) -> None:
        request = settled.request
        self.settled += 1
        self.joined += settled.joined
        self.impressions += len(request.items)
        names = [kind.name for kind in self.core_rules.kinds]
        if self.rules.immature == "drop" and not all(k.mature for k in settled.kinds):
            self.dropped += len(request.items)
            return
        for position, item in enumerate(request.items):
            self.rows.append(
                Row(
                    request.request_id,
                    settled.body.user_id,
                    item,
                    position,
                    request.event_time,
                    {n: k.values[position] for n, k in zip(names, settled.kinds, strict=True)},
                    {n: k.delays_ms[position] for n, k in zip(names, settled.kinds, strict=True)},
                    {n: k.mature for n, k in zip(names, settled.kinds, strict=True)},
                    END if settled.at_end else self.watermark,
                )
            )

    def _identity(self, action: ActionEvent) -> ActionIdentity:
        key = action.request_id if self.rules.key == "request_id" else action.user_id
        return ActionIdentity(
            key or "",
            action.event_id,
            action.action,
            action.item_id,
            action.value,
            action.event_time,
        )


def run(timeline: Timeline, rules: Rules) -> Outcome:
    """The outcome of the core."""
    return CoreRunner(rules).run(timeline)
