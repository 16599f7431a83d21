"""The joining job without Flink: the pure join core, its state in dicts, its timers in a heap.

Events may be given in any order within an advance of the watermark; by rule 13 of
docs/join-semantics.md that changes no row.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from examples.closed_loop.events import Action, Request
from jobs.pipeline.config import Pipeline
from schemas.events import ActionEvent, Origin, RequestBody, RequestEvent, Stream
from udfs.core.join_core import Decisions, Hold, Refused
from udfs.core.keyed_join import KeyedJoin
from udfs.core.sample_rows import SampleWriter
from udfs.core.trust import ALWAYS, Trust, trust_in
from udfs.core.wire import SampleRows

_FOREVER = 2**63 - 1
_NOWHERE = Origin("headless", None, 0)


@dataclass
class _Key:
    requests: dict[str, bytes] = field(default_factory=dict)
    log: list[bytes] = field(default_factory=list)


class _DictStorage:
    """A `udfs.core.keyed_join.Storage` in dicts. A key with nothing stored takes no memory."""

    def __init__(self) -> None:
        self.keys: dict[str, _Key] = defaultdict(_Key)
        self.current = ""

    def request(self, request_id: str) -> bytes | None:
        return self.keys[self.current].requests.get(request_id)

    def requests(self) -> Iterable[bytes]:
        return list(self.keys[self.current].requests.values())

    def put_request(self, request_id: str, blob: bytes) -> None:
        self.keys[self.current].requests[request_id] = blob

    def remove_request(self, request_id: str) -> None:
        del self.keys[self.current].requests[request_id]
        self._drop_empty()

    def log(self) -> list[bytes]:
        return list(self.keys[self.current].log)

    def log_length(self) -> int | None:
        return len(self.keys[self.current].log)

    def count_log(self) -> int:
        return len(self.keys[self.current].log)

    def append_to_log(self, blob: bytes) -> None:
        self.keys[self.current].log.append(blob)

    def replace_log(self, blobs: list[bytes]) -> None:
        self.keys[self.current].log = blobs
        self._drop_empty()

    def _drop_empty(self) -> None:
        key = self.keys[self.current]
        if not key.requests and not key.log:
            del self.keys[self.current]


class HeadlessJoin:
    """One join by request id under a pipeline's configuration.

    `counts`: late and rejected records, by reason. The rows are taken with `take`.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        rules = pipeline.rules
        if rules.key != "request_id" or pipeline.label_silence is not None:
            raise ValueError("the headless join is by request_id and without label silence")
        self.counts: Counter[str] = Counter()
        self._windows = rules.windows
        self._complete_until = pipeline.end_of_input.complete_until
        schema = pipeline.schema
        self._context = [f.name for f in schema.scoped("context")]
        self._columns = [f.name for f in schema.scoped("item")]
        pack = msgspec.msgpack.encode
        self._names = msgspec.Raw(pack(self._context)), msgspec.Raw(pack(self._columns))
        self._pack = msgspec.msgpack.Encoder().encode
        self._writer = SampleWriter(schema, rules.kinds, rules.exposure, pipeline.negative_sampling)
        self._storage = _DictStorage()
        self._join = KeyedJoin(rules, self._storage)
        self._timers: list[tuple[int, str]] = []
        self._set: set[tuple[int, str]] = set()
        self._watermark = -1
        self._seen: dict[str, int] = {}
        self._rows: list[SampleRows] = []

    def request(self, shown: Request) -> None:
        """A request, with its candidates in the order in which they are shown."""
        items = shown.candidates
        body = RequestBody(
            shown.user_id,
            [c.item_id for c in items],
            self._names[0],
            [shown.context.get(name) for name in self._context],
            self._names[1],
            [[c.features.get(name) for c in items] for name in self._columns],
        )
        key, time = shown.request_id, shown.time
        self._see("features", time)
        self._storage.current = key
        event = RequestEvent(key, time, self._pack(body), _NOWHERE, b"")
        verdict = self._join.request(key, event, self._watermark)
        if isinstance(verdict, Refused):
            self.counts[verdict.reason] += 1
            return
        for at in verdict.wake_at:
            self._wake(at, key)

    def action(self, action: Action) -> None:
        """An action. One of a kind that is not configured is ignored, but moves time."""
        key, time = action.request_id, action.time
        self._see("actions", time)
        if action.kind not in self._windows:
            self.counts["ignored"] += 1
            return
        self._storage.current = key
        event = ActionEvent(
            *(action.event_id, action.user_id, action.item_id, key, action.kind, action.value),
            *(time, _NOWHERE, b""),
        )
        decisions = self._join.action(key, event, self._watermark, ALWAYS)
        if not isinstance(decisions, Hold):
            self._perform(key, decisions)
        elif decisions.wake_at is not None:
            self._wake(decisions.wake_at, key)

    def advance(self, watermark: int) -> None:
        """The watermark (epoch ms) moves on: everything that is due by then is decided."""
        if watermark > self._watermark:
            self._advance(watermark, ALWAYS, at_end=False)

    def finish(self) -> None:
        """The end of the input: everything that is left is decided (rule 11)."""
        trust = trust_in(
            self._seen, at_end=True, complete_until=self._complete_until, silence_after=None
        )
        self._advance(_FOREVER, trust, at_end=True)

    @property
    def keys(self) -> int:
        """How many keys have something stored."""
        return len(self._storage.keys)

    def take(self) -> list[SampleRows]:
        """The rows since the last call, in the order in which they were made."""
        rows, self._rows = self._rows, []
        return rows

    def _see(self, stream: Stream, time: int) -> None:
        self._seen[stream] = max(time, self._seen.get(stream, time))

    def _wake(self, at: int, key: str) -> None:
        if (at, key) not in self._set:
            self._set.add((at, key))
            heapq.heappush(self._timers, (at, key))

    def _advance(self, watermark: int, trust: Trust, *, at_end: bool) -> None:
        self._watermark = watermark
        timers = self._timers
        while timers and timers[0][0] <= watermark:
            at, key = heapq.heappop(timers)
            self._set.discard((at, key))
            self._storage.current = key
            decisions = self._join.timer(key, at, at_end=at_end, trust=trust)
            if decisions is not None:
                self._perform(key, decisions)

    def _perform(self, key: str, decisions: Decisions) -> None:
        for at in decisions.wake_at:
            self._wake(at, key)
        for emitted in decisions.emitted:
            rows, sampled_out = self._writer.rows(emitted)
            self._rows += rows
            self.counts["sampled_out"] += sampled_out
        for late in decisions.late:
            self.counts[late.reason] += 1
        self.counts["orphan_action"] += len(decisions.orphans)
        self.counts["duplicate_action"] += len(decisions.duplicates)
        self.counts["too_many_actions"] += len(decisions.excess)
