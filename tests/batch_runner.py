"""Runs timelines through what Flink calls, bytes in and bytes out, with batches cut at random.

It does what `udfs/jvm/KeyedBatches.java` does: it collects steps, gives stored state along with a
batch, performs what the reply says, and keeps the timers. Both must be empty at the end.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import msgspec

from schemas.events import ActionEvent, Progress, RequestEvent
from tests import core_runner
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
from udfs.core import join_batches
from udfs.core.join_batches import JoinBatches
from udfs.core.keyed_join import MEMORY, SMALL
from udfs.core.side_rows import LATE_ACTIONS

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


@dataclass
class Stored:
    """What is stored for one key."""

    entries: dict[str, bytes] = field(default_factory=dict)
    log: list[bytes] = field(default_factory=list)


class BatchRunner:
    """One join of one timeline. A batch ends after a step with the probability `cut`.

    `load_at_most`: keys with more entries, or a longer log, do not come with a batch. `small` and
    `memory` are those of `udfs.core.keyed_join`. `restart`: the probability that after a batch
    everything but state and timers is lost, as at a restore. `check`: the probability that after a
    batch what was counted as waiting is compared with the state. `asked` counts how often something
    was read of a key that had not come, and `moved` the bytes that came with batches and so.
    """

    def __init__(
        self,
        rules: Rules,
        seed: int,
        *,
        cut: float,
        load_at_most: int = 32,
        small: int = SMALL,
        memory: int = MEMORY,
        restart: float = 0.0,
        check: float = 0.0,
    ) -> None:
        self.rules = rules
        self._random = random.Random(seed)
        self._check = check
        self._cut, self._restart, self._load_at_most = cut, restart, load_at_most
        self._core_rules = core_runner.core_rules(rules)
        silence = rules.silence
        self._small, self._memory = small, memory
        self.state: dict[str, Stored] = defaultdict(Stored)
        self.timers: set[tuple[int, str]] = set()
        #: How many requests are pending, by their deadline, and how many actions are held.
        self.pending = Counter[int]()
        self.held = 0
        #: What each batch told of large keys.
        self.largest: list[int] = []
        self.silence = None if silence is None else core_runner.Silence(silence)
        self.watermark = self._before = core_runner.NEVER
        self._progress: dict[str, int] = {}
        self.rows: list[Row] = []
        self.late: list[LateAction] = []
        self.rejected: list[Rejection] = []
        self.counts: dict[str, int] = defaultdict(int)
        #: Entries that were removed at their ends, without asking.
        self.removed = 0
        self.asked = self.moved = 0
        self._begin_batch()
        self._open()

    def run(self, timeline: Timeline) -> Outcome:
        """The outcome, without the watermarks that rows were made on."""
        read = {"requests": 0, "actions": 0}
        for event in timeline.events:
            if isinstance(event, Watermark):
                self._announce(event.time)
            elif isinstance(event, Request):
                read["requests"] += 1
                by_request = self.rules.key == "request_id"
                key = event.request_id if by_request else event.user_id
                self._event(key, core_runner.request_event(event))
            else:
                read["actions"] += 1
                key = self._key(event)
                self._event(key, _action_event(event, key))
                if self.silence is not None:
                    self._show("actions", event.event_time)
                    self.silence.actions = max(self.silence.actions, event.event_time)
                    self._announce(self.silence.arrived)
        if timeline.progress is not None:
            self._show("features", timeline.progress)
            if self.silence is None:
                self._show("actions", timeline.progress)
        self._end()
        assert not self.timers
        left = {key: stored for key, stored in self.state.items() if stored.entries or stored.log}
        assert not +self.pending
        assert not self.held
        assert not left, f"state is left after the last timer: {left}"
        assert not self._unloaded, "nothing is stored, and yet it is said to be much"
        return self._outcome(read)

    def _outcome(self, read: dict[str, int]) -> Outcome:
        names = ("settled", "impressions", "sampled_out", "unexposed", "immature_dropped", "joined")
        counters = read | {name: self.counts[name] for name in (*names, "late")}
        counters["rows"] = sum(n for name, n in self.counts.items() if name.startswith("rows/"))
        for name, n in self.counts.items():
            if name.startswith("rejected/"):
                counters[f"rejected.{name.split('/')[-1]}"] = n
        accepted = read["requests"] - sum(r.stream == "features" for r in self.rejected)
        assert self.counts["accepted"] == accepted
        return Outcome(tuple(self.rows), tuple(self.late), tuple(self.rejected), counters)

    # What Flink and the operator do

    def _open(self) -> None:
        silence = self.rules.silence
        self._join = JoinBatches(
            self._core_rules,
            core_runner.SCHEMA,
            core_runner.core_sampling(self.rules),
            complete_until=None,
            silence_after=None if silence is None else silence.after,
            small=self._small,
            memory=self._memory,
        )
        self._join.open(self)
        self._unloaded: set[str] = set()
        for stream, time in self._progress.items():
            self._step("beacon", 0, Progress(stream, time))

    def _begin_batch(self) -> None:
        self._keys: list[str] = []
        self._steps: list[tuple[int, int, Any]] = []

    def _show(self, stream: str, time: int) -> None:
        self._progress[stream] = max(time, self._progress.get(stream, time))
        self._event("beacon", Progress(stream, time))

    def _event(self, key: str, event: RequestEvent | ActionEvent | Progress) -> None:
        self._step(key, 0, event)
        self._perhaps_cut()

    def _step(self, key: str, time: int, event: Any) -> None:
        if key not in self._keys:
            self._keys.append(key)
        self._steps.append((self._keys.index(key), time, event))

    def _perhaps_cut(self) -> None:
        if self._random.random() < self._cut:
            self._run(ended=False)
            if self._random.random() < self._restart:
                self._open()

    def _announce(self, watermark: int) -> None:
        if self.silence is not None:
            watermark = self.silence.hold(watermark)
        if watermark > self.watermark:
            self._advance(watermark, ended=False)
            self._perhaps_cut()

    def _end(self) -> None:
        self._run(ended=False)
        self._advance(core_runner.FOREVER, ended=True)
        self._run(ended=True)

    def _advance(self, watermark: int, *, ended: bool) -> None:
        self.watermark = watermark
        last = None
        while due := sorted(timer for timer in self.timers if timer[0] <= watermark):
            at, key = due[0]
            if last is not None and at > last and self._random.random() < self._cut:
                # between two times, and never within one
                self._steps.append((-1, last, None))
                self._run(ended=ended)
                last = None
                continue
            self.timers.remove(due[0])
            if not self._only_waits(key, at):
                self._step(key, at, None)
                last = at
        self._steps.append((-1, watermark, None))

    def _only_waits(self, key: str, now: int) -> bool:
        """Whether a key has nothing but an entry that waits for its end. Due ones are removed."""
        if self.rules.key != "request_id":
            return False
        entries = self.state[key].entries
        end = entries[key][:9] if list(entries) == [key] else b""
        comes_along = key not in self._unloaded and self._load_at_most > 0
        if key in self._keys or not comes_along or self.state[key].log or end[:1] != b"\xd3":
            return False
        if _unpack(end) <= now:
            del entries[key]
            self.removed += 1
        return True

    def _run(self, *, ended: bool) -> None:
        if self._steps:
            keys, steps = self._keys, self._steps
            batch = self._before, ended, [self._loaded(key) for key in keys], steps
            self._begin_batch()
            packed_batch = _pack(batch)
            self.moved += len(packed_batch)
            said, samples, largest, (counts, _, side) = _unpack(self._join.run(packed_batch))
            for of_key in said:
                self._store(keys[of_key[0]], *of_key[1:])
            if self._random.random() < self._check:
                self._check_levels()
            self.largest.append(largest)
            for name, by in counts:
                self.counts[name] += by
            for packed in samples:
                self.rows += core_runner.sample_rows(self._core_rules, packed, END)
            for which, values in side:
                table = join_batches.SIDE_OUTPUTS[which]
                row = dict(zip(table.columns, values, strict=True))
                if table is LATE_ACTIONS:
                    self._is_late(row)
                else:
                    self._is_rejected(row)
        self._before = self.watermark

    def _loaded(self, key: str) -> tuple[Any, ...]:
        stored = self.state[key]
        most = max(len(stored.entries), len(stored.log))
        if key in self._unloaded or most > self._load_at_most:
            return key, False, {}, []
        return key, True, stored.entries, stored.log

    def _store(
        self,
        key: str,
        load: bool,
        changes: dict[str, bytes | None],
        new_log: list[bytes] | None,
        appended: list[bytes],
        timers: list[int],
        pending: list[tuple[int, int]],
        held: int,
    ) -> None:
        self._unloaded.discard(key)
        if not load:
            self._unloaded.add(key)
        stored = self.state[key]
        for name, blob in changes.items():
            if blob is None:
                stored.entries.pop(name, None)
            else:
                stored.entries[name] = blob
        stored.log = [*(stored.log if new_log is None else new_log), *appended]
        self.timers |= {(at, key) for at in timers}
        for deadline, by in pending:
            self.pending[deadline] += by
        self.held += held

    def _check_levels(self) -> None:
        """The levels that were counted up and down are those of what is stored."""
        pending, held = Counter[int](), 0
        for stored in self.state.values():
            of_key = _unpack(self._join.levels(_pack(stored.entries), _pack(stored.log)))
            for deadline, by in of_key[0]:
                pending[deadline] += by
            held += of_key[1]
        assert (+self.pending, self.held) == (pending, held)
        assert min(self.pending.values(), default=0) >= 0

    # A `join_batches.Reader`

    def entry(self, key: str, name: str) -> bytes | None:
        blob = self.state[key].entries.get(name)
        self._asked(blob or b"-")
        return blob

    def entries(self, key: str) -> bytes:
        return self._asked(_pack(self.state[key].entries))

    def log(self, key: str) -> bytes:
        return self._asked(_pack(self.state[key].log))

    def _asked(self, blob: bytes) -> bytes:
        self.asked += 1
        self.moved += len(blob)
        return blob

    # Back to the terms of the oracle

    def _key(self, action: Action) -> str:
        return (action.request_id or "") if self.rules.key == "request_id" else action.user_id

    def _is_late(self, row: dict[str, Any]) -> None:
        names = ("event_id", "action", "item_id", "value", "event_time")
        key = row[self.rules.key]
        self.late.append(
            LateAction(
                (row["request_id"], row["position"]),
                row["request_time"],
                ActionIdentity(key, *(row[name] for name in names)),
                row["delay_ms"],
                row["reason"],
            )
        )

    def _is_rejected(self, row: dict[str, Any]) -> None:
        identity: Request | ActionIdentity
        if row["stream"] == "features":
            identity = msgspec.json.decode(row["raw"], type=Request)
        else:
            identity = ActionIdentity(*msgspec.json.decode(row["raw"]))
        self.rejected.append(Rejection(row["stream"], row["reason"], identity))


def _action_event(action: Action, key: str) -> ActionEvent:
    event = core_runner.action_event(action)
    identity = (key, event.event_id, event.action, event.item_id, event.value, event.event_time)
    return msgspec.structs.replace(event, raw=msgspec.json.encode(identity))
