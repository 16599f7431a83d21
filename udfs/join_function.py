"""The join as a Flink function: a thin adapter around `udfs.join_core`.

It loads and stores keyed state, sets timers, and turns decisions into rows. Requests lie in map
state by their id, held actions in list state, both as bytes. One input carries both streams, so
that what one reader reads in order arrives in order, and how far the streams have come
(`Progress`), which only the end of the input asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction
from pyflink.datastream.state import ListStateDescriptor, MapStateDescriptor

from schemas.actions import ActionKind
from schemas.events import (
    LATEST_TIME,
    STREAMS,
    ActionEvent,
    Origin,
    Progress,
    RequestBody,
    RequestEvent,
    unpack_front,
)
from schemas.features import Feature, FeatureSchema
from schemas.sample_id import sample_id, sample_ids
from udfs import wire
from udfs.join_core import Decisions, LateAction, Settled, action_arrives, decide, request_arrives
from udfs.matching import JoinRules
from udfs.partitions import partition
from udfs.state_codec import StoredRequest, pack_action, pack_request, unpack_action, unpack_request


class JoinSamples(KeyedProcessFunction):
    """Packed events of one key in, rows of `wire.joined_columns` out."""

    def __init__(
        self,
        rules: JoinRules,
        schema: FeatureSchema,
        immature: Literal["mark", "drop"],
        complete_until: int | None,
    ) -> None:
        self._rules = rules
        self._schema = schema
        self._drop_immature = immature == "drop"
        self._complete_until = complete_until

    def open(self, runtime_context: Any) -> None:
        # Named with their version: another layout would get another name, and read this one.
        self._requests = runtime_context.get_map_state(
            MapStateDescriptor("requests-v1", Types.STRING(), Types.PICKLED_BYTE_ARRAY())
        )
        self._held = runtime_context.get_list_state(
            ListStateDescriptor("held-actions-v1", Types.PICKLED_BYTE_ARRAY())
        )
        # Under the beacon keys of this subtask, where a restart finds it; all keys need it at the
        # end of the input, so what was last seen is also kept here.
        self._progress_state = runtime_context.get_map_state(
            MapStateDescriptor("progress-v1", Types.STRING(), Types.LONG())
        )
        self._progress_seen: dict[str, int] = {}
        self._unpack = msgspec.msgpack.Decoder(RequestEvent | ActionEvent | Progress).decode
        self._by_request = self._rules.key == "request_id"
        self._rows = _Rows(self._schema, self._rules.kinds)
        metrics = runtime_context.get_metrics_group()
        counters = ("settled", "impressions", "rows", "immature_dropped", "joined", "late")
        self._counters = {name: metrics.counter(name) for name in counters}
        rejected = metrics.add_group("rejected")
        reasons = ("late_request", "duplicate_request", "orphan_action", "duplicate_action")
        self._rejected = {reason: rejected.counter(reason) for reason in reasons}

    def process_element(self, value: Any, ctx: Any) -> Iterator[Any]:
        event = self._unpack(value)
        timers = ctx.timer_service()
        watermark = timers.current_watermark()
        if isinstance(event, RequestEvent):
            blob = self._requests.get(event.request_id)
            twin = None if blob is None else unpack_request(blob)
            items = unpack_front(event.body).items
            verdict = request_arrives(event, items, twin, watermark, self._rules)
            if isinstance(verdict, str):
                return iter((self._reject("features", verdict, event),))
            self._requests.put(event.request_id, pack_request(verdict))
            timers.register_event_time_timer(verdict.deadline)
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
        held = [*map(unpack_action, self._held.get() or ()), event]
        return self._perform(decide(known, held, watermark, self._rules), timers)

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
            progress=self._progress() if at_end else None,
        )
        yield from self._perform(decisions, timers)

    def _known(self, request_id: str | None) -> list[StoredRequest]:
        if self._by_request:
            blob = self._requests.get(request_id)
            return [] if blob is None else [unpack_request(blob)]
        return [unpack_request(blob) for blob in self._requests.values()]

    def _note(self, progress: Progress) -> None:
        state, seen = self._progress_state, self._progress_seen
        before = state.get(progress.stream)
        if before is None or progress.time > before:
            state.put(progress.stream, progress.time)
        for stream, time in state.items():
            seen[stream] = max(time, seen.get(stream, time))

    def _progress(self) -> int | None:
        if self._complete_until is not None:
            return self._complete_until
        if len(self._progress_seen) < len(STREAMS):
            return None
        return min(self._progress_seen.values())

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
        for settled in decisions.settled:
            impressions = len(settled.body.items)
            count["settled"].inc()
            count["impressions"].inc(impressions)
            count["joined"].inc(settled.joined)
            if self._drop_immature and not all(kind.mature for kind in settled.kinds):
                count["immature_dropped"].inc(impressions)
            else:
                count["rows"].inc(impressions)
                yield self._rows.samples(settled)
        for late in decisions.late:
            count["late"].inc()
            yield self._rows.late(late)
        for action in decisions.orphans:
            yield self._reject("actions", "orphan_action", action)
        for action in decisions.duplicates:
            yield self._reject("actions", "duplicate_action", action)

    def _reject(self, stream: str, reason: str, event: RequestEvent | ActionEvent) -> Row:
        self._rejected[reason].inc()
        return self._rows.rejected(stream, reason, event)


_MESSAGES = {
    "late_request": "came when the watermark had reached its deadline",
    "duplicate_request": "a request with this id is pending, or settled and remembered",
    "orphan_action": "no request claimed it in time",
    "duplicate_action": "counted already",
}


class _Rows:
    """Decisions as rows of `wire.joined_columns`."""

    def __init__(self, schema: FeatureSchema, kinds: Sequence[ActionKind]) -> None:
        self._context = schema.scoped("context")
        self._columns = schema.scoped("item")
        self._context_has_lists = any(f.type.is_list for f in self._context)
        self._items_have_lists = any(f.type.is_list for f in self._columns)
        pack = msgspec.msgpack.Encoder().encode
        self._context_names = pack([f.name for f in self._context])
        self._column_names = pack([f.name for f in self._columns])
        self._kinds = kinds
        # all that is not said in a row about something else than samples
        self._blank: list[Any] = [
            [] if c.depth else None for c in wire.joined_columns(schema, kinds)
        ]

    def samples(self, settled: Settled) -> Row:
        request, body = settled.request, settled.body
        values: list[Any] = [
            wire.SAMPLES,
            request.request_id,
            body.user_id,
            request.event_time,
            *partition(request.event_time),
            sample_ids(request.request_id, body.items),
            body.items,
        ]
        values += self._context_values(body)
        values += self._column_values(body)
        for kind in settled.kinds:
            if any(delay is not None for delay in kind.delays_ms):
                values += (kind.values, kind.delays_ms, kind.mature)
            else:
                values += ([], [], kind.mature)
        return Row(*values, [])

    def late(self, late: LateAction) -> Row:
        action, request, position = late.action, late.request, late.position
        dt, hr = partition(request.event_time)
        side = [
            str(sample_id(request.request_id, action.item_id, position)),
            request.request_id,
            request.user_id,
            action.item_id,
            str(position),
            str(request.event_time),
            action.event_id,
            action.action,
            None if action.value is None else repr(action.value),
            str(action.event_time),
            str(action.event_time - request.event_time),
            late.reason,
        ]
        return self._side(wire.LATE, dt, hr, side)

    def rejected(self, stream: str, reason: str, event: RequestEvent | ActionEvent) -> Row:
        origin: Origin = event.origin
        dt, hr = partition(event.event_time)
        side = [
            stream,
            reason,
            _MESSAGES[reason],
            origin.name,
            None if origin.partition is None else str(origin.partition),
            str(origin.offset),
            str(event.event_time),
            event.raw.decode("latin-1"),
        ]
        return self._side(wire.REJECTED, dt, hr, side)

    def _side(self, tag: int, dt: str, hr: str, side: list[str | None]) -> Row:
        front = (tag, None, None, None, dt, hr)
        return Row(*front, *self._blank[len(front) : -1], side)

    def _context_values(self, body: RequestBody) -> list[Any]:
        values = body.context
        if bytes(body.context_names) != self._context_names:
            values = _by_name(body.context_names, values, self._context, None)
        if not self._context_has_lists:
            return values
        out: list[Any] = []
        for feature, value in zip(self._context, values, strict=True):
            out += (value or [], value is not None) if feature.type.is_list else (value,)
        return out

    def _column_values(self, body: RequestBody) -> list[Any]:
        columns = body.columns
        if bytes(body.column_names) != self._column_names:
            # accepted under another schema: what it did not have is null
            columns = _by_name(body.column_names, columns, self._columns, [None] * len(body.items))
        if not self._items_have_lists:
            return columns
        out: list[Any] = []
        for feature, column in zip(self._columns, columns, strict=True):
            if feature.type.is_list:
                out += ([v or [] for v in column], [v is not None for v in column])
            else:
                out.append(column)
        return out


def _by_name(
    names: msgspec.Raw, values: list[Any], wanted: Sequence[Feature], missing: Any
) -> list[Any]:
    have = dict(zip(msgspec.msgpack.decode(names), values, strict=True))
    return [have.get(feature.name, missing) for feature in wanted]
