"""The join as a Flink function: a thin adapter around `udfs.core.join_core`.

It loads and stores keyed state, sets timers, and turns decisions into rows. Requests lie in map
state by their id, held actions in list state, both as bytes. One input carries both streams, so
that what one reader reads in order arrives in order, and how far the streams have come
(`Progress`), which only the end of the input asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import msgspec
from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction
from pyflink.datastream.state import ListStateDescriptor, MapStateDescriptor

from schemas.events import (
    LATEST_TIME,
    STREAMS,
    ActionEvent,
    Origin,
    Progress,
    RequestEvent,
)
from schemas.features import FeatureSchema
from schemas.sample_id import sample_id
from udfs.core import wire
from udfs.core.join_core import (
    FOREVER,
    Decisions,
    LateAction,
    action_arrives,
    decide,
    request_arrives,
)
from udfs.core.matching import JoinRules
from udfs.core.outcome_watch import STRETCH, OutcomeWatch
from udfs.core.sample_rows import SampleWriter
from udfs.core.sampling import Sampling
from udfs.core.state_codec import (
    StoredRequest,
    pack_action,
    pack_request,
    unpack_action,
    unpack_request,
)
from udfs.operators import side_outputs
from udfs.operators.counts import Counts
from udfs.operators.warn import warn


class JoinSamples(KeyedProcessFunction):
    """Packed events of one key in, packed `wire.SampleRows` out; the rest to the side outputs."""

    def __init__(
        self,
        rules: JoinRules,
        schema: FeatureSchema,
        sampling: Sampling,
        *,
        complete_until: int | None,
        silence_after: int | None,
        max_late_requests: float = 1.0,
    ) -> None:
        """`complete_until`: rule 11's; `silence_after`: rule 10's T, None when it is off;
        `max_late_requests`: from which share on late requests are said in the log.
        """
        self._rules = rules
        self._schema = schema
        self._sampling = sampling
        self._complete_until = complete_until
        self._silence_after = silence_after
        self._max_late_requests = max_late_requests

    def open(self, runtime_context: Any) -> None:
        # Named with their version: another layout would get another name, and read this one.
        self._requests = runtime_context.get_map_state(
            MapStateDescriptor("requests-v1", Types.STRING(), Types.PICKLED_BYTE_ARRAY())
        )
        self._held = runtime_context.get_list_state(
            ListStateDescriptor("held-actions-v1", Types.PICKLED_BYTE_ARRAY())
        )
        # Not in Flink's state: KeepTime, which stands before the join, keeps it over a restart, and
        # tells it to each subtask.
        self._progress_seen: dict[str, int] = {}
        self._unpack = msgspec.msgpack.Decoder(RequestEvent | ActionEvent | Progress).decode
        self._late_requests = OutcomeWatch(self._max_late_requests)
        self._by_request = self._rules.key == "request_id"
        self._writer = SampleWriter(
            self._schema, self._rules.kinds, self._rules.exposure, self._sampling
        )
        self._late_tag = side_outputs.LATE_ACTIONS.tag()
        self._rejected_tag = side_outputs.REJECTED.tag()
        self._counts = counts = Counts(runtime_context)
        self._counters = {name: counts.counter(name) for name in _COUNTERS}
        self._written = {kind: counts.counter("rows", kind) for kind in get_args(wire.RowKind)}

    def close(self) -> None:
        self._counts.close()

    def process_element(self, value: Any, ctx: Any) -> Iterator[Any]:
        event = self._unpack(value)
        timers = ctx.timer_service()
        watermark = timers.current_watermark()
        if isinstance(event, RequestEvent):
            blob = self._requests.get(event.request_id)
            twin = None if blob is None else unpack_request(blob)
            verdict = request_arrives(event, twin, watermark, self._rules)
            if isinstance(verdict, str):
                if verdict == "late_request":
                    self._say_late(self._late_requests.bad())
                return iter((self._reject("features", verdict, event),))
            self._late_requests.good()
            self._requests.put(event.request_id, pack_request(verdict))
            self._counters["accepted"].inc()
            timers.register_event_time_timer(verdict.deadline)
            if verdict.emit_at is not None:
                timers.register_event_time_timer(verdict.emit_at)
            return iter(())
        if isinstance(event, Progress):
            self._note(event)
            return iter(())
        known = self._known(event.request_id)
        hold = action_arrives(event, known, watermark, self._rules)
        if hold is not None:
            self._held.add(pack_action(event))
            if hold.wake_at is not None:
                timers.register_event_time_timer(hold.wake_at)
            return iter(())
        held = [unpack_action(blob) for blob in self._held.get() or ()]
        decisions = decide(
            known, held, watermark, self._rules, arrived=event, limit=self._limit(at_end=False)
        )
        return self._perform(decisions, timers)

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
        timers = ctx.timer_service()
        at_end = timers.current_watermark() >= LATEST_TIME
        held = [unpack_action(blob) for blob in self._held.get() or ()]
        decisions = decide(
            self._known(ctx.get_current_key() if self._by_request else None),
            held,
            timestamp,
            self._rules,
            at_end=at_end,
            limit=self._limit(at_end=at_end),
        )
        yield from self._perform(decisions, timers)

    def _known(self, request_id: str | None) -> list[StoredRequest]:
        if self._by_request:
            blob = self._requests.get(request_id)
            return [] if blob is None else [unpack_request(blob)]
        return [unpack_request(blob) for blob in self._requests.values()]

    def _note(self, progress: Progress) -> None:
        seen = self._progress_seen
        seen[progress.stream] = max(progress.time, seen.get(progress.stream, progress.time))

    def _limit(self, *, at_end: bool) -> int | None:
        """How far labels are vouched for: by the data when they end, and by the action stream."""
        seen, limit = self._progress_seen, FOREVER
        if at_end:
            if self._complete_until is not None:
                limit = self._complete_until
            elif len(seen) < len(STREAMS):
                return None
            else:
                limit = min(seen.values())
        if self._silence_after is not None:
            actions = seen.get("actions")
            if actions is None:
                return None
            limit = min(limit, actions + self._silence_after)
        return limit

    def _perform(self, decisions: Decisions, timers: Any) -> Iterator[Any]:
        for request in decisions.changed:
            self._requests.put(request.request_id, pack_request(request))
        for request_id in decisions.forgotten:
            self._requests.remove(request_id)
        if decisions.held is not None:
            if decisions.held:
                self._held.update([pack_action(action) for action in decisions.held])
            else:
                self._held.clear()
        for at in decisions.wake_at:
            timers.register_event_time_timer(at)
        count = self._counters
        for emitted in decisions.emitted:
            samples, sampled_out = self._writer.rows(emitted)
            if sampled_out:
                count["sampled_out"].inc(sampled_out)
            for rows in samples:
                written = len(rows.sample_ids) if rows.positions is None else len(rows.positions)
                self._written[rows.kind].inc(written)
                yield self._writer.pack(rows)
        for settled in decisions.settled:
            count["settled"].inc()
            count["impressions"].inc(len(settled.request.items))
            # each is a call to the JVM, and most are nothing most of the time
            for name, number in (
                ("joined", settled.joined),
                ("unexposed", settled.unexposed),
                ("immature_dropped", settled.immature),
            ):
                if number:
                    count[name].inc(number)
        for late in decisions.late:
            count["late"].inc()
            yield self._late_tag, self._late(late)
        for action in decisions.orphans:
            yield self._reject("actions", "orphan_action", action)
        for action in decisions.duplicates:
            yield self._reject("actions", "duplicate_action", action)

    def _say_late(self, late: int | None) -> None:
        if late is not None:
            warn(
                "late_requests",
                f"{late} of the last {STRETCH} requests, or fewer, of this subtask came too late "
                "(late_request): more than runtime.max_late_requests. With Kafka, time follows the "
                "timestamps of the records (docs/kafka.md); with files, the order of their paths",
            )

    def _late(self, late: LateAction) -> Row:
        action, request, position = late.action, late.request, late.position
        features = None
        if request.body:
            context, items = self._writer.feature_values(request.body)
            values = context | {name: column[position] for name, column in items.items()}
            features = msgspec.json.encode(values).decode()
        values = {
            "sample_id": sample_id(request.request_id, action.item_id, position),
            "request_id": request.request_id,
            "user_id": request.user_id,
            "item_id": action.item_id,
            "position": position,
            "request_time": request.event_time,
            "event_id": action.event_id,
            "action": action.action,
            "value": action.value,
            "event_time": action.event_time,
            "delay_ms": action.event_time - request.event_time,
            "reason": late.reason,
            "features": features,
        }
        return side_outputs.LATE_ACTIONS.row(values, request.event_time)

    def _reject(self, stream: str, reason: str, event: RequestEvent | ActionEvent) -> Any:
        self._counts.counter("rejected", stream, reason).inc()
        origin: Origin = event.origin
        values = {
            "stream": stream,
            "reason": reason,
            "message": _MESSAGES[reason],
            "origin": origin.name,
            "partition": origin.partition,
            "offset": origin.offset,
            "record_time": event.event_time,
            "raw": event.raw,
        }
        row = side_outputs.REJECTED.row(values, event.event_time)
        return self._rejected_tag, row


_COUNTERS = (
    "accepted",
    "settled",
    "impressions",
    "joined",
    "late",
    "sampled_out",
    "unexposed",
    "immature_dropped",
)
_MESSAGES = {
    "late_request": "came when the watermark had reached its deadline",
    "duplicate_request": "a request with this id is pending, or settled and remembered",
    "orphan_action": "no request claimed it in time",
    "duplicate_action": "counted already",
}
