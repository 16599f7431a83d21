"""Runs timelines through the join without Flink: keyed state, timers and watermarks as Flink's.

It drives `udfs.core.keyed_join` event by event, with stored bytes in dicts; `tests.batch_runner`
drives what Flink calls, in batches. Rows go
through `udfs.core.sample_rows`, as those that are written do, and are read back from what it packs.
Timers fire when the watermark reaches them, in the order of their times, then of registration,
since Flink promises no order among keys. State and timers must be empty at the end.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import msgspec

from schemas.actions import ActionKind
from schemas.events import ActionEvent, Origin, RequestEvent, unpack_front
from schemas.features import Feature, FeatureSchema, FeatureType
from schemas.labels import without_action
from tests.timeline import (
    END,
    Action,
    ActionIdentity,
    LabelSilence,
    LateAction,
    Outcome,
    Rejection,
    Request,
    Row,
    Rules,
    Timeline,
    Watermark,
    context_features,
    item_features,
)
from udfs.core import sampling, wire
from udfs.core.join_core import Decisions, Hold, Refused
from udfs.core.keyed_join import MEMORY, SMALL, KeyedJoin
from udfs.core.matching import JoinRules
from udfs.core.sample_rows import SampleWriter
from udfs.core.trust import ALWAYS, Trust
from udfs.core.trust import NEVER as NOTHING

FOREVER = 2**63 - 1
#: Minus infinity; below it, differences do not matter.
NEVER = -(2**63)
#: Logs that are longer do not come along, so their length must be counted.
KNOWN_LENGTH = 32
NOWHERE = Origin("timeline", None, 0)
#: Those of `tests.timeline.context_features` and `item_features`.
SCHEMA = FeatureSchema.of(
    (
        Feature("size", FeatureType("int64"), "context"),
        Feature("item", FeatureType("string")),
        Feature("first", FeatureType("bool")),
        Feature("next", FeatureType("string"), required=False),
    )
)
Blob = TypeVar("Blob", bytes, bytes | None)
_unpack_rows = msgspec.msgpack.Decoder(wire.SampleRows).decode


def core_rules(rules: Rules) -> JoinRules:
    kinds = tuple(ActionKind(k, w, rules.labels[k]) for k, w in rules.windows.items())
    return JoinRules(
        rules.key,
        kinds,
        rules.skew,
        rules.lateness,
        rules.horizon,
        rules.first_emit_after,
        rules.emit_positives == "on_arrival",
        rules.final_emit,
        rules.exposure,
        drop_unexposed=rules.unexposed == "drop",
        drop_immature=rules.immature == "drop",
        max_actions=rules.max_actions,
    )


def core_sampling(rules: Rules) -> sampling.Sampling:
    by = [
        sampling.SamplingRule(r.rate, r.feature, r.equals, r.negative) for r in rules.sampling.rules
    ]
    return sampling.Sampling(rules.sampling.seed, rules.sampling.rate, tuple(by))


def request_event(request: Request) -> RequestEvent:
    context, n = context_features(request), len(request.items)
    columns = [item_features(request, position) for position in range(n)]
    names = [f.name for f in SCHEMA.scoped("context")], [f.name for f in SCHEMA.scoped("item")]
    body = (
        request.user_id,
        list(request.items),
        names[0],
        [context[name] for name in names[0]],
        names[1],
        [[column[name] for column in columns] for name in names[1]],
    )
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
class KeyedBytes:
    """Stored requests and log of one key."""

    requests: dict[str, bytes] = field(default_factory=dict)
    log: list[bytes] = field(default_factory=list)


class DictStorage:
    """A `Storage` in dicts. `touched` counts the bytes that were read and written."""

    def __init__(self) -> None:
        self.keys: dict[str, KeyedBytes] = defaultdict(KeyedBytes)
        self.current = ""
        self.touched = 0

    def request(self, request_id: str) -> bytes | None:
        return self._seen(self.keys[self.current].requests.get(request_id))

    def requests(self) -> Iterable[bytes]:
        # a copy: Flink's iterator does not bear changes, either
        return [self._seen(blob) for blob in self.keys[self.current].requests.values()]

    def put_request(self, request_id: str, blob: bytes) -> None:
        self.keys[self.current].requests[request_id] = self._seen(blob)

    def remove_request(self, request_id: str) -> None:
        del self.keys[self.current].requests[request_id]

    def log(self) -> list[bytes]:
        return [self._seen(blob) for blob in self.keys[self.current].log]

    def log_length(self) -> int | None:
        n = len(self.keys[self.current].log)
        return n if n <= KNOWN_LENGTH else None

    def count_log(self) -> int:
        return len(list(self.log()))

    def append_to_log(self, blob: bytes) -> None:
        self.keys[self.current].log.append(self._seen(blob))

    def replace_log(self, blobs: list[bytes]) -> None:
        self.keys[self.current].log = [self._seen(blob) for blob in blobs]

    def _seen(self, blob: Blob) -> Blob:
        self.touched += len(blob or b"-")
        return blob


@dataclass
class Silence:
    """Rule 10, event by event: how far the watermark may go."""

    rules: LabelSilence
    actions: int = NEVER
    arrived: int = NEVER
    begin: int | None = None

    def hold(self, watermark: int) -> int:
        self.arrived, actions, rules = watermark, self.actions, self.rules
        if self.begin is not None and actions >= watermark:
            self.begin = None
        if self.begin is None and watermark > actions + rules.after:
            self.begin = actions
        if self.begin is None:
            return watermark
        hold = watermark - NEVER if rules.max_hold is None else rules.max_hold
        allowed = (self.begin + rules.after, actions - rules.out_of_orderness, watermark - hold)
        return min(watermark, max(allowed))


class CoreRunner:
    """One join of one timeline. `state`, `timers` and `rows`, in the order in which they were made,
    can be looked at between events.

    `small` and `memory` are those of `KeyedJoin`. `restart` forgets what is in memory between two
    events, as a restore does.
    """

    def __init__(self, rules: Rules, *, small: int = SMALL, memory: int = MEMORY) -> None:
        self.storage = DictStorage()
        self.state = self.storage.keys
        self._small, self._memory = small, memory
        self.go_on_with(rules)
        self.timers: list[tuple[int, int, str]] = []
        self._registered: set[tuple[int, str]] = set()
        self.silence = None if rules.silence is None else Silence(rules.silence)
        self.watermark = -(2**63)
        self.progress: int | None = None
        self.rows: list[Row] = []
        self.late: list[LateAction] = []
        self.rejected: list[Rejection] = []
        self.counted = dict.fromkeys(
            ("settled", "impressions", "sampled_out", "unexposed", "immature_dropped", "joined"), 0
        )

    def go_on_with(self, rules: Rules) -> None:
        """Restarts with these rules: a change over a savepoint."""
        self.rules = rules
        self.core_rules = core_rules(rules)
        self.writer = SampleWriter(
            SCHEMA, self.core_rules.kinds, rules.exposure, core_sampling(rules)
        )
        self.restart()

    def restart(self) -> None:
        self.join = KeyedJoin(self.core_rules, self.storage, small=self._small, memory=self._memory)

    def run(self, timeline: Timeline) -> Outcome:
        self.progress = timeline.progress
        counts = {"requests": 0, "actions": 0}
        for event in timeline.events:
            if isinstance(event, Watermark):
                self._announce(event.time)
            elif isinstance(event, Request):
                counts["requests"] += 1
                self._request(event)
            else:
                counts["actions"] += 1
                self._action(event)
                if self.silence is not None:
                    self.silence.actions = max(self.silence.actions, event.event_time)
                    self._announce(self.silence.arrived)
        self._advance(FOREVER)
        assert not self.timers
        left = {k: s for k, s in self.state.items() if s.requests or s.log}
        assert not self.join.keys_in_memory
        assert not left, f"state is left after the last timer: {left}"
        counters = {**counts, **self.counted, "rows": len(self.rows), "late": len(self.late)}
        for rejection in sorted(self.rejected, key=lambda r: r.reason):
            name = f"rejected.{rejection.reason}"
            counters[name] = counters.get(name, 0) + 1
        return Outcome(tuple(self.rows), tuple(self.late), tuple(self.rejected), counters)

    def _announce(self, watermark: int) -> None:
        """The sources have; what the join sees of it may be less."""
        if self.silence is not None:
            watermark = self.silence.hold(watermark)
        if watermark > self.watermark:
            self._advance(watermark)

    def _trust(self) -> Trust:
        """Rules 10 and 11, as `udfs.core.join_batches` has them."""
        trust = ALWAYS
        if self.watermark == FOREVER:
            if self.progress is None:
                return NOTHING
            trust = Trust.until(self.progress)
        if self.silence is not None:
            if self.silence.actions == NEVER:
                return NOTHING
            trust = trust.and_not_beyond(self.silence.actions + self.silence.rules.after)
        return trust

    def _wake(self, at: int, key: str) -> None:
        if (at, key) not in self._registered:
            self._registered.add((at, key))
            heapq.heappush(self.timers, (at, len(self._registered), key))

    def _advance(self, watermark: int) -> None:
        self.watermark = watermark
        while self.timers and self.timers[0][0] <= watermark:
            at, _, key = heapq.heappop(self.timers)
            self._registered.discard((at, key))
            self.storage.current = key
            at_end = self.watermark == FOREVER
            decisions = self.join.timer(key, at, at_end=at_end, trust=self._trust())
            if decisions is not None:
                self._perform(key, decisions)

    def _request(self, request: Request) -> None:
        event = request_event(request)
        key = request.request_id if self.rules.key == "request_id" else request.user_id
        self.storage.current = key
        verdict = self.join.request(key, event, self.watermark)
        if isinstance(verdict, Refused):
            self.rejected.append(Rejection("features", verdict.reason, request))
            return
        for at in verdict.wake_at:
            self._wake(at, key)

    def _action(self, action: Action) -> None:
        key = (action.request_id or "") if self.rules.key == "request_id" else action.user_id
        self.storage.current = key
        event = action_event(action)
        decisions = self.join.action(key, event, self.watermark, self._trust())
        if not isinstance(decisions, Hold):
            self._perform(key, decisions)
        elif decisions.wake_at is not None:
            self._wake(decisions.wake_at, key)

    def _perform(self, key: str, decisions: Decisions) -> None:
        for at in decisions.wake_at:
            self._wake(at, key)
        for emitted in decisions.emitted:
            packed, sampled_out = self.writer.rows(emitted)
            self.counted["sampled_out"] += sampled_out
            for rows in packed:
                made_at = END if self.watermark == FOREVER else self.watermark
                self.rows += sample_rows(self.core_rules, self.writer.pack(rows), made_at)
        for settled in decisions.settled:
            self.counted["settled"] += 1
            self.counted["impressions"] += len(settled.request.items)
            self.counted["joined"] += settled.joined
            self.counted["unexposed"] += settled.unexposed
            self.counted["immature_dropped"] += settled.immature
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
            ("too_many_actions", decisions.excess),
        ):
            self.rejected += [Rejection("actions", reason, self._identity(a)) for a in actions]

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


def sample_rows(rules: JoinRules, packed: bytes, made_at: int | Literal["end"]) -> Iterator[Row]:
    """The rows of packed `wire.SampleRows`."""
    rows = _unpack_rows(packed)
    front, n = unpack_front(rows.body), rows.impressions
    kinds = list(zip(rules.kinds, rows.kinds, strict=True))
    values = {k.name: c.values or [without_action(k)] * n for k, c in kinds}
    delays = {k.name: c.delays_ms or [None] * n for k, c in kinds}
    for position in range(n) if rows.positions is None else rows.positions:
        yield Row(
            rows.request_id,
            front.user_id,
            front.items[position],
            position,
            rows.event_time,
            {k: v[position] for k, v in values.items()},
            {k: d[position] for k, d in delays.items()},
            {k.name: c.mature for k, c in kinds},
            made_at,
            rows.observed_ms,
            0 if rows.versions is None else rows.versions[position],
            rows.kind,
            None if rows.exposed is None else rows.exposed[position],
            1.0 if rows.rates is None else rows.rates[position],
        )


def run(timeline: Timeline, rules: Rules) -> Outcome:
    """The outcome of the core."""
    return CoreRunner(rules).run(timeline)
