"""Is every record of the sources decoded, or rejected, and that once?"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas import samples
from schemas.events import ActionEvent, Origin, Stream
from schemas.mapping.decoding import Skipped
from tools.audit.decoding import DecodedAction, DecodedRequest
from tools.audit.eras import Eras
from tools.audit.impressions import Impressions
from tools.audit.mapped import Decoders
from tools.audit.output import Output, hour_of
from tools.audit.report import Report, place
from tools.audit.source import Reached, Record, is_one_log, records

#: What the join rejects; all other reasons are the decoder's.
JOIN_REASONS: dict[str, Stream] = {
    "late_request": "features",
    "duplicate_request": "features",
    "orphan_action": "actions",
    "duplicate_action": "actions",
    "too_many_actions": "actions",
}


@dataclass(slots=True)
class Request:
    """A good request. `reason`: the join's, if it was rejected; then nothing else is kept of it.

    `first`: the number of its first impression. `reached`: what the watermark had reached at most
    when the request arrived (epoch ms; infinite if that cannot be told). `missing`: it is
    unaccounted for.
    """

    request_id: str
    user_id: str
    event_time: int
    origin: Origin
    reason: str | None
    items: list[str]
    first: int
    reached: float = math.inf
    missing: bool = False


@dataclass(slots=True)
class Action:
    """A good action. `reason`: of `rejected/` or `late_actions/`, when it is there.

    `late_of`: the time of the request that named it late.
    """

    event: ActionEvent
    reason: str | None
    late_of: int | None = None

    @property
    def open(self) -> bool:
        """It is nowhere in the output as a record of its own: a sample has to hold it."""
        return self.reason is None


@dataclass
class Source:
    """All that the sources say.

    `accepted` are the requests that were not rejected, in the order in which `impressions` has
    them. `reached`: by the key of the source. `unseen`: bad records that are not in `rejected/`,
    with the reason why they are bad.
    """

    impressions: Impressions
    accepted: list[Request] = field(default_factory=list)
    rejected: list[Request] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    reached: dict[str, Reached] = field(default_factory=dict)
    unseen: list[tuple[Stream, Origin, str]] = field(default_factory=list)
    read: Counter[Stream] = field(default_factory=Counter)
    bad: dict[Stream, Counter[str]] = field(default_factory=dict)


#: Stream and origin of a record.
_Place = tuple[str, str, "int | None", int]


class _Row(NamedTuple):
    """A row of `rejected/`. `record_time`: epoch ms."""

    reason: str
    raw: bytes
    file: str
    record_time: int | None


class Rejected:
    """The rows of `rejected/`, by origin; each is taken once by the record that it is of.

    `several`: the streams whose records may say several events, each of which may be rejected.
    """

    def __init__(self, output: Output, report: Report, several: Collection[Stream] = ()) -> None:
        self._rows: dict[_Place, list[_Row]] = defaultdict(list)
        self.several = several
        self._report = report
        self._account = report.account("rows in rejected/")
        for file, row in output.rows("rejected", samples.REJECTED):
            self._account.came_in += 1
            key = (row["stream"], row["origin"], row["partition"], row["offset"])
            where = place(Origin(row["origin"], row["partition"], row["offset"]))
            if key in self._rows and row["stream"] not in several:
                report.find("rejected row", where, file.name, "the record is rejected twice")
            elif file.hour != hour_of(row["record_time"]):
                report.find(
                    "rejected row", where, file.name, "lies in the partition of another hour"
                )
            else:
                self._rows[key].append(
                    _Row(row["reason"], row["raw"], file.name, row["record_time"])
                )

    def take(
        self,
        stream: Stream,
        record: Record,
        bad: str | None,
        *,
        ignored: bool,
        or_bad: str | None = None,
        event_time: int | None = None,
    ) -> str | None:
        """The reason for which it was rejected, if it was; `bad`: what the decoder says. `or_bad`:
        what it said under another configuration. `event_time`: for one of several events of a
        record, which it is.
        """
        rows = self._rows.get((stream, *_key(record.origin)), [])
        at = next((i for i, r in enumerate(rows) if event_time in (None, r.record_time)), None)
        if at is None:
            return None
        reason, raw, file, _ = rows.pop(at)
        why = None
        if raw != record.raw:
            why = "its raw bytes are not those of the record"
        elif ignored:
            why = f"rejected as {reason}, but the action is to be ignored"
        elif bad is not None and reason != bad:
            why = f"rejected as {reason}, but the record is {bad}"
        elif bad is None and reason != or_bad and JOIN_REASONS.get(reason) != stream:
            why = f"rejected as {reason}, but the record is good"
        if why is not None:
            self._report.find("rejected row", place(record.origin), file, why)
        else:
            self._account.went["of a record in the source"] += 1
        return reason

    def finish(self) -> None:
        """What is left was never in the source."""
        for (_, name, partition, offset), rows in self._rows.items():
            where = place(Origin(name, partition, offset))
            for row in rows:
                why = f"rejected as {row.reason}, but there is no such record in the source"
                self._report.find("rejected row", where, row.file, why)
        self._rows.clear()


def _key(origin: Origin) -> tuple[str, int | None, int]:
    return origin.name, origin.partition, origin.offset


def read_source(
    eras: Eras, rejected: Rejected, report: Report, progress: Callable[[Stream, int], None]
) -> Source:
    """Read and decode everything. `progress` is told how many records more were read.

    Raises ConfigError for sources that cannot be read.
    """
    pipeline = eras.present
    source = Source(Impressions(pipeline.schema))
    for named in pipeline.sources.each:
        stream = named.stream
        decoders = Decoders(pipeline.seen_from(named), eras.items[1])
        # the watermark may be far behind what one of several sources has shown, never ahead of it
        reached = source.reached[named.key] = Reached(
            int(named.source.out_of_orderness), is_one_log=is_one_log(named)
        )
        bad = source.bad.setdefault(stream, Counter())
        found = records(named, report.notes, pipeline.object_storage)
        for record in _told(found, stream, progress):
            reached.read(record)
            said = decoders.read(stream, record.raw, record.time)
            source.read[stream] += len(said) if isinstance(said, list) else 1
            if isinstance(said, str):
                if rejected.take(stream, record, said, ignored=False) is None:
                    source.unseen.append((stream, record.origin, said))
                else:
                    bad[f"rejected: {said}"] += 1
                continue
            if isinstance(said, Skipped):
                rejected.take(stream, record, None, ignored=True)
                bad["skipped"] += 1
                if said.event_time is not None:
                    reached.good(said.event_time, record)
                continue
            # before the record itself moves time
            watermark = reached.watermark_at_most()
            good = [e for e in said if _add(source, eras, rejected, stream, record, e, watermark)]
            if good:
                # an ignored action moves time as well (rule 12)
                reached.good(min(event.event_time for event in said), record)
    source.impressions.seal()
    rejected.finish()
    return source


def _add(
    source: Source,
    eras: Eras,
    rejected: Rejected,
    stream: Stream,
    record: Record,
    event: DecodedRequest | DecodedAction,
    watermark: float,
) -> bool:
    """Add an event of a record. Whether it is good, whatever the join has made of it."""
    bad = source.bad[stream]
    ignored = isinstance(event, DecodedAction) and event.ignored
    or_bad = None
    if isinstance(event, DecodedRequest) and len(event.items) > eras.items[0]:
        or_bad = "too_many_items"
    time = event.event_time if stream in rejected.several else None
    reason = rejected.take(stream, record, None, ignored=ignored, or_bad=or_bad, event_time=time)
    if reason is not None and reason == or_bad:
        bad[f"rejected: {reason}"] += 1
        return False
    if isinstance(event, DecodedRequest):
        _add_request(source, event, record.origin, reason, watermark)
    elif ignored:
        bad["ignored"] += 1
    else:
        source.actions.append(Action(_action(event, record.origin), reason))
    return True


def _told(
    found: Iterator[Record], stream: Stream, progress: Callable[[Stream, int], None]
) -> Iterator[Record]:
    for n, record in enumerate(found, 1):
        if n % 1_000 == 0:
            progress(stream, 1_000)
        yield record


def _action(action: DecodedAction, origin: Origin) -> ActionEvent:
    """Without its bytes, which are no longer needed."""
    a = action
    what = (a.event_id, a.user_id, a.item_id, a.request_id, a.action, a.value, a.event_time)
    return ActionEvent(*what, origin, b"")


def _add_request(
    source: Source, request: DecodedRequest, origin: Origin, reason: str | None, reached: float
) -> None:
    who = (request.request_id, request.user_id, request.event_time, origin, reason)
    if reason is not None:
        source.rejected.append(Request(*who, [], -1))
        return
    first = source.impressions.count
    source.impressions.add(request)
    source.accepted.append(Request(*who, request.items, first, reached))


def request_twins(source: Source, eras: Eras, report: Report) -> None:
    """Rule 6: a second request with an id that is remembered is a duplicate, and no other is."""
    by_user = eras.present.join.key == "user_id"
    remembered = eras.remembered
    by_name: dict[tuple[str, str], list[Request]] = defaultdict(list)
    for request in source.accepted:
        by_name[_name(request, by_user=by_user)].append(request)
    for twins in by_name.values():
        if len(twins) < 2:
            continue
        # a copy is accepted only when the tombstone of the one before it has gone
        kept: list[Request] = []
        for request in twins:
            if any(abs(k.event_time - request.event_time) <= remembered for k in kept):
                request.missing = True
                report.find(
                    "request",
                    request.request_id,
                    place(request.origin),
                    f"a copy of {place(kept[-1].origin)}, and not in rejected/",
                )
            else:
                kept.append(request)
    for request in source.rejected:
        if request.reason == "duplicate_request" and not by_name[_name(request, by_user=by_user)]:
            report.find(
                "request",
                request.request_id,
                place(request.origin),
                "rejected as duplicate_request, but no request with its id was accepted",
            )


def _name(request: Request, *, by_user: bool) -> tuple[str, str]:
    """A request id belongs to its join key."""
    return (request.user_id if by_user else "", request.request_id)
