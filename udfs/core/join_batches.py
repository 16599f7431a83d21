"""The join in batches: bytes in, bytes out. This is what Flink's operator calls. Pure.

`udfs/jvm/KeyedBatches.java` collects events and timers of many keys, reads what is stored for those
keys, and calls `JoinBatches.run` once. The batch and the reply are msgpack; `_Batch` says what is
in a batch, and `_reply` what is in a reply. How the input is cut into batches changes nothing
about the outcome.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Protocol, get_args

import msgspec

from schemas.events import STREAMS, ActionEvent, Progress, RequestEvent
from schemas.features import FeatureSchema
from udfs.core import wire
from udfs.core.batch_reply import Reports
from udfs.core.join_core import Decisions, Hold, Refused
from udfs.core.keyed_join import MEMORY, SMALL, KeyedJoin
from udfs.core.matching import JoinRules
from udfs.core.outcome_watch import STRETCH, OutcomeWatch
from udfs.core.sample_rows import SampleWriter
from udfs.core.sampling import Sampling
from udfs.core.side_rows import LATE_ACTIONS, REJECTED, late_row
from udfs.core.state_codec import held_in, unpack_log, unpack_request
from udfs.core.trust import Trust, trust_in

#: The side outputs, by the index that a reply names them with.
SIDE_OUTPUTS = (LATE_ACTIONS, REJECTED)
_LATE, _REJECTED = range(len(SIDE_OUTPUTS))
_MESSAGES = {
    "late_request": "came when the watermark had reached its deadline",
    "duplicate_request": "a request with this id is pending, or settled and remembered",
    "orphan_action": "no request claimed it in time",
    "duplicate_action": "counted already",
    "too_many_actions": "its request, or its user, has as many actions as limits allows",
}
#: What the join rejects.
_REJECTED_HERE = (
    "features/late_request",
    "features/duplicate_request",
    "actions/orphan_action",
    "actions/duplicate_action",
    "actions/too_many_actions",
)


def counters(rules: JoinRules) -> tuple[str, ...]:
    """All counters of the join, in the form of `batch_reply.Reports.counts`."""
    return (
        "accepted",
        "settled",
        "impressions",
        "joined",
        "late",
        "sampled_out",
        "unexposed",
        "immature_dropped",
        *(f"rows/{kind}" for kind in get_args(wire.RowKind)),
        *(f"positives/{kind.name}" for kind in rules.kinds if kind.name != rules.exposure),
        *(f"rejected/{reason}" for reason in _REJECTED_HERE),
    )


class Reader(Protocol):
    """Reads the state of a key that did not come with the batch, as it was before the batch."""

    def entry(self, key: str, name: str) -> bytes | None:
        """One entry, or None."""

    def entries(self, key: str) -> bytes:
        """A packed map of all of them."""

    def log(self, key: str) -> bytes:
        """A packed list."""


class _Key(msgspec.Struct, array_like=True, gc=False):
    """A key of a batch. `loaded`: whether `entries` and `log` are all that is stored for it; if
    not, they are empty. The other fields do not travel: they say what the batch makes of it.
    """

    key: str
    loaded: bool
    entries: dict[str, bytes]
    log: list[bytes]
    changes: dict[str, bytes | None] = {}
    #: Replaces the log; None: it stays.
    new_log: list[bytes] | None = None
    appended: list[bytes] = []
    has_entries: bool = False
    has_log: bool = False
    was_in_memory: bool = False
    #: How many more requests with these deadlines are pending (+1, -1), and how many more actions
    #: are held.
    pending: list[tuple[int, int]] = []
    held: int = 0


class _Step(msgspec.Struct, array_like=True, gc=False):
    """An event of a key (its index among the keys); or, without an event, a timer of a key that
    is due at `time`; or, with the key -1, that the watermark is now `time`.
    """

    key: int
    time: int
    event: RequestEvent | ActionEvent | Progress | None


class _Batch(msgspec.Struct, array_like=True, gc=False):
    """`watermark`: the one before the first step. `ended`: no more events come, and all timers that
    are left are due. Timers that are due precede the watermark that made them so.
    """

    watermark: int
    ended: bool
    keys: list[_Key]
    steps: list[_Step]


class JoinBatches:
    """One subtask's join. It is made where the job is submitted, and opened where it runs."""

    def __init__(
        self,
        rules: JoinRules,
        schema: FeatureSchema,
        sampling: Sampling,
        *,
        complete_until: int | None,
        silence_after: int | None,
        max_late_requests: float = 1.0,
        sources: Sequence[str] = STREAMS,
        small: int = SMALL,
        memory: int = MEMORY,
    ) -> None:
        """`complete_until`: rule 11's; `silence_after`: rule 10's T, None when it is off;
        `max_late_requests`: from which share on late requests are said in the log; `sources`: the
        keys of all sources; `small` and `memory`: see `udfs.core.keyed_join`.
        """
        self._rules = rules
        self._schema = schema
        self._sampling = sampling
        self._complete_until = complete_until
        self._silence_after = silence_after
        self._max_late_requests = max_late_requests
        self._sources = tuple(sources)
        self._small, self._memory = small, memory

    def open(self, reader: Reader) -> None:
        """Begins with no key in memory and no progress seen."""
        rules = self._rules
        self._storage = _BatchStorage(reader)
        self._join = KeyedJoin(rules, self._storage, small=self._small, memory=self._memory)
        # Not in Flink's state: KeepTime, which stands before the join, keeps it over a restart, and
        # tells it to each subtask.
        self._progress_seen: dict[str, int] = {}
        self._late_requests = OutcomeWatch(self._max_late_requests)
        self._writer = SampleWriter(self._schema, rules.kinds, rules.exposure, self._sampling)
        self._unpack = msgspec.msgpack.Decoder(_Batch).decode
        self._pack = msgspec.msgpack.Encoder().encode
        self._reports = Reports()
        self._samples: list[bytes] = []
        #: Timers that are set or due within the batch: time and key.
        self._timers: list[tuple[int, int]] = []

    def run(self, data: bytes) -> bytes:
        """Performs the steps of a batch, in their order."""
        batch = self._unpack(data)
        keys, storage, watermark = batch.keys, self._storage, batch.watermark
        timers = self._timers = []
        for key in keys:
            key.was_in_memory = not key.loaded and self._join.in_memory(key.key)
        for step in batch.steps:
            if step.event is not None:
                key = storage.current = keys[step.key]
                self._arrives(step.key, key.key, step.event, watermark)
            elif step.key >= 0:
                heapq.heappush(timers, (step.time, step.key))
            else:
                watermark = step.time
                self._fire(keys, watermark, at_end=batch.ended)
        return self._reply(keys)

    def levels(self, entries: bytes, log: bytes) -> bytes:
        """`[pending: [deadline, 1], how many actions are held]` of a key, from all that is stored
        for it (a packed map and a packed list). For state of a release that did not count them.
        """
        stored = msgspec.msgpack.Decoder(dict[str, bytes]).decode(entries).values()
        requests = [unpack_request(blob) for blob in stored]
        blobs = msgspec.msgpack.Decoder(list[bytes]).decode(log)
        pending = [(request.deadline, 1) for request in requests if not request.settled]
        return self._pack((pending, held_in(unpack_log(blobs))))

    def _fire(self, keys: list[_Key], watermark: int, *, at_end: bool) -> None:
        """All timers up to the watermark, those included that are set meanwhile."""
        timers = self._timers
        if not timers or timers[0][0] > watermark:
            return
        trust = self._trust(at_end=at_end)
        fired = None
        while timers and timers[0][0] <= watermark:
            timer = heapq.heappop(timers)
            if timer == fired:
                continue
            fired = timer
            at, k = timer
            key = self._storage.current = keys[k]
            decisions = self._join.timer(key.key, at, at_end=at_end, trust=trust)
            if decisions is not None:
                self._perform(k, decisions)

    def _arrives(
        self, k: int, key: str, event: RequestEvent | ActionEvent | Progress, watermark: int
    ) -> None:
        if isinstance(event, RequestEvent):
            verdict = self._join.request(key, event, watermark)
            if isinstance(verdict, Refused):
                if verdict.reason == "late_request":
                    self._say_late(self._late_requests.bad())
                self._reject("features", verdict.reason, event)
                return
            self._late_requests.good()
            self._reports.counts["accepted"] += 1
            self._storage.current.pending.append((verdict.request.deadline, 1))
            for at in verdict.wake_at:
                heapq.heappush(self._timers, (at, k))
        elif isinstance(event, ActionEvent):
            trust = self._trust(at_end=False)
            # What becomes of it at once, `_perform` takes off again.
            self._storage.current.held += 1
            decisions = self._join.action(key, event, watermark, trust)
            if not isinstance(decisions, Hold):
                self._perform(k, decisions)
            elif decisions.wake_at is not None:
                heapq.heappush(self._timers, (decisions.wake_at, k))
        else:
            seen = self._progress_seen
            seen[event.source] = max(event.time, seen.get(event.source, event.time))

    def _trust(self, *, at_end: bool) -> Trust:
        return trust_in(
            self._progress_seen,
            sources=self._sources,
            at_end=at_end,
            complete_until=self._complete_until,
            silence_after=self._silence_after,
        )

    def _perform(self, k: int, decisions: Decisions) -> None:
        """What the join has stored already is announced: timers, rows, side outputs, counts."""
        for at in decisions.wake_at:
            heapq.heappush(self._timers, (at, k))
        counts, key = self._reports.counts, self._storage.current
        for emitted in decisions.emitted:
            samples, sampled_out = self._writer.rows(emitted)
            if sampled_out:
                counts["sampled_out"] += sampled_out
            for rows in samples:
                written = rows.count
                counts["rows/" + rows.kind] += written
                self._samples.append(self._writer.pack(rows))
        for settled in decisions.settled:
            key.pending.append((settled.request.deadline, -1))
            key.held -= settled.joined
            counts["settled"] += 1
            counts["impressions"] += len(settled.request.items)
            counts["joined"] += settled.joined
            if settled.unexposed or settled.immature:
                counts["unexposed"] += settled.unexposed
                counts["immature_dropped"] += settled.immature
            for kind, positives in settled.positives.items():
                counts["positives/" + kind] += positives
        for late in decisions.late:
            key.held -= 1
            counts["late"] += 1
            self._reports.side.append((_LATE, late_row(late, self._writer)))
        if decisions.orphans or decisions.duplicates or decisions.excess:
            for reason, actions in (
                ("orphan_action", decisions.orphans),
                ("duplicate_action", decisions.duplicates),
                ("too_many_actions", decisions.excess),
            ):
                for action in actions:
                    key.held -= 1
                    self._reject("actions", reason, action)

    def _reply(self, keys: list[_Key]) -> bytes:
        """`[keys: [index, whether to load it next time, changes: {name: bytes or nil}, the new log
        or nil, what is appended to it, timers to set, pending: [deadline, how many more], how many
        more actions are held], samples: [bytes], elements of the largest key, reports]`, packed.
        Keys with nothing to say are left out.
        """
        timers: dict[int, set[int]] = {}
        for at, k in self._timers:
            timers.setdefault(k, set()).add(at)
        said = []
        for k, key in enumerate(keys):
            # A key that the join has in memory needs nothing of what is stored, which may be much.
            # What did not come, and was not looked at, is not known to be little.
            known = key.loaded or key.has_log or key.was_in_memory
            load = known and not self._join.in_memory(key.key)
            wake = timers.get(k, ())
            if (
                wake
                or key.changes
                or key.appended
                or key.new_log is not None
                or key.pending
                or key.held
                or load is not key.loaded
            ):
                said.append(
                    (k, load, key.changes, key.new_log, key.appended, wake, key.pending, key.held)
                )
        samples, self._samples = self._samples, []
        return self._pack((said, samples, self._join.take_largest(), self._reports.taken()))

    def _say_late(self, late: int | None) -> None:
        if late is not None:
            message = (
                f"{late} of the last {STRETCH} requests, or fewer, of this subtask came too late "
                "(late_request): more than runtime.max_late_requests. With Kafka, time follows the "
                "timestamps of the records (docs/kafka.md); with files, the order of their paths"
            )
            self._reports.warnings.append(("late_requests", message))

    def _reject(self, stream: str, reason: str, event: RequestEvent | ActionEvent) -> None:
        self._reports.counts[f"rejected/{stream}/{reason}"] += 1
        origin = event.origin
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
        self._reports.side.append((_REJECTED, REJECTED.row(values, event.event_time)))


class _BatchStorage:
    """The state of the current key within a batch; a `udfs.core.keyed_join.Storage`. Entries are
    requests by their id. What is written is kept in `_Key`, until the reply tells of it.
    """

    current: _Key

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._entries = msgspec.msgpack.Decoder(dict[str, bytes]).decode
        self._log = msgspec.msgpack.Decoder(list[bytes]).decode

    def request(self, request_id: str) -> bytes | None:
        key = self.current
        if key.loaded or key.has_entries:
            return key.entries.get(request_id)
        if request_id in key.changes:
            return key.changes[request_id]
        return self._reader.entry(key.key, request_id)

    def requests(self) -> Iterable[bytes]:
        key = self.current
        if not (key.loaded or key.has_entries):
            key.entries, key.has_entries = self._entries(self._reader.entries(key.key)), True
            for name, blob in key.changes.items():
                if blob is None:
                    key.entries.pop(name, None)
                else:
                    key.entries[name] = blob
        return list(key.entries.values())

    def put_request(self, request_id: str, blob: bytes) -> None:
        key = self.current
        key.changes[request_id] = key.entries[request_id] = blob

    def remove_request(self, request_id: str) -> None:
        key = self.current
        key.changes[request_id] = None
        key.entries.pop(request_id, None)

    def log(self) -> list[bytes]:
        key = self.current
        if not (key.loaded or key.has_log):
            key.log, key.has_log = [*self._log(self._reader.log(key.key)), *key.log], True
        return key.log

    def log_length(self) -> int | None:
        key = self.current
        return len(key.log) if key.loaded or key.has_log else None

    def count_log(self) -> int:
        # not kept: a key whose log was only counted is still not to come with the next batch
        return len(self._log(self._reader.log(self.current.key))) + len(self.current.log)

    def append_to_log(self, blob: bytes) -> None:
        self.current.log.append(blob)
        self.current.appended.append(blob)

    def replace_log(self, blobs: list[bytes]) -> None:
        key = self.current
        key.new_log, key.appended, key.log, key.has_log = blobs, [], list(blobs), True
