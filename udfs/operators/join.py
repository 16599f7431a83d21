"""The join as a Flink function: a thin adapter around `udfs.core.keyed_join`.

It gives keyed state to the join, sets timers, and turns decisions into rows. Requests are in map
state by their id, and the log of held actions is in list state, both as bytes. One input carries
both streams, so events that one reader reads in order arrive in order. It also carries how far each
stream has come (`Progress`), which is needed at the end of the input and for label silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
from udfs.core.join_core import Decisions, Hold, LateAction, Refused
from udfs.core.keyed_join import KeyedJoin
from udfs.core.matching import JoinRules
from udfs.core.outcome_watch import STRETCH, OutcomeWatch
from udfs.core.sample_rows import SampleWriter
from udfs.core.sampling import Sampling
from udfs.core.trust import ALWAYS, NEVER, Trust
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
        # The names carry a version: another layout would get another name, and read these. The log
        # keeps its first name, since it is still read in the same way.
        requests = runtime_context.get_map_state(
            MapStateDescriptor("requests-v1", Types.STRING(), Types.PICKLED_BYTE_ARRAY())
        )
        log = runtime_context.get_list_state(
            ListStateDescriptor("held-actions-v1", Types.PICKLED_BYTE_ARRAY())
        )
        self._join = KeyedJoin(self._rules, _FlinkStorage(requests, log))
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
            key = event.request_id
            if not self._by_request:
                # The user's id is in the packed body; asking Flink for it costs a call.
                key = ctx.get_current_key() if self._join.keys_in_memory else ""
            verdict = self._join.request(key, event, watermark)
            if isinstance(verdict, Refused):
                if verdict.reason == "late_request":
                    self._say_late(self._late_requests.bad())
                return iter((self._reject("features", verdict.reason, event),))
            self._late_requests.good()
            self._counters["accepted"].inc()
            for at in verdict.wake_at:
                timers.register_event_time_timer(at)
            return iter(())
        if isinstance(event, Progress):
            self._note(event)
            return iter(())
        # The key is there: the decoder requires the request id when that is the key.
        key = (event.request_id or "") if self._by_request else event.user_id
        decisions = self._join.action(key, event, watermark, self._trust(at_end=False))
        if isinstance(decisions, Hold):
            if decisions.wake_at is not None:
                timers.register_event_time_timer(decisions.wake_at)
            return iter(())
        return self._perform(decisions, timers)

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
        timers = ctx.timer_service()
        at_end = timers.current_watermark() >= LATEST_TIME
        trust = self._trust(at_end=at_end)
        decisions = self._join.timer(ctx.get_current_key(), timestamp, at_end=at_end, trust=trust)
        return self._perform(decisions, timers)

    def _note(self, progress: Progress) -> None:
        seen = self._progress_seen
        seen[progress.stream] = max(progress.time, seen.get(progress.stream, progress.time))

    def _trust(self, *, at_end: bool) -> Trust:
        """Up to when labels can be trusted: at the end as far as the data goes (rule 11), and with
        label silence as far as the action stream goes (rule 10).
        """
        seen, trust = self._progress_seen, ALWAYS
        if at_end:
            if self._complete_until is not None:
                trust = Trust.until(self._complete_until)
            elif len(seen) < len(STREAMS):
                return NEVER
            else:
                trust = Trust.until(min(seen.values()))
        if self._silence_after is not None:
            actions = seen.get("actions")
            if actions is None:
                return NEVER
            trust = trust.and_not_beyond(actions + self._silence_after)
        return trust

    def _perform(self, decisions: Decisions, timers: Any) -> Iterator[Any]:
        """What the join has stored already is announced: timers, rows, side outputs, counts."""
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
            # Each count is a call to the JVM, and most of these are 0 most of the time.
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
        if late.body:
            context, items = self._writer.feature_values(late.body)
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


class _FlinkStorage:
    """The state of the current key; a `udfs.core.keyed_join.Storage`."""

    def __init__(self, requests: Any, log: Any) -> None:
        self._requests = requests
        self._log = log
        self.request = requests.get
        self.requests = requests.values
        self.put_request = requests.put
        self.remove_request = requests.remove
        self.append_to_log = log.add

    def log(self) -> Iterable[bytes]:
        return self._log.get() or ()

    def replace_log(self, blobs: list[bytes]) -> None:
        if blobs:
            self._log.update(blobs)
        else:
            self._log.clear()


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
