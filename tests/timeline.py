"""The words in which tests tell a story of a join: events in the order of their arrival.

A `Timeline` is what the join sees, `Rules` how it is configured, an `Outcome` what must come of it.
Nothing here decides anything: see `tests.oracle` for the decisions. All times are milliseconds.

`parse` reads a timeline from text, one event a line, and `Outcome.lines` writes an outcome the same
way, so that a test shows the scenario and its result side by side::

    r1 u1 @100000 [i1 i2]                   a request: id, user, time, items
    click u1 i1 r1 @105000 #e1 =3.5         an action: kind, user, item, request ("-": none), time,
                                            then event id and value, both optional
    wm 110000                               the watermark is announced
    end 120000                              the input ends, and its progress is 120000
    end                                     the same, and its progress is minus infinity

and gives rows, late actions and rejected records a line each (see `Outcome.lines`):

    r1[0] i1 click=1+5000 buy=0 @110000                     request, position, item, labels (delays)
    r1[0] i1 click=0~ provisional after 5 @100005           immature, not final, observed for 5 ms
    r1[0] i1 click=1+7~ positive r1 after 7 @100007         its second version
    late r1[0] click i1 @105000 #e1 +5000 after_settle
    late_request r1 u1 @100000 [i1]

Digits may be grouped (`100_000`). Blank lines, and what follows a `#` that stands alone, are not
read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Key = Literal["request_id", "user_id"]
Label = Literal["any", "count", "sum", "max", "last"]
EmitPositives = Literal["at_settle", "on_arrival"]
FinalEmit = Literal["always", "if_changed", "never"]
RowKind = Literal["provisional", "positive", "final"]
FeatureValue = bool | int | str | None

#: More actions than a key of a timeline has.
MANY = 100_000
#: `Row.made_at` of a row that only the end of the input made.
END: Literal["end"] = "end"


@dataclass(frozen=True)
class Request:
    """A feature event: `items` were shown to `user_id` at `event_time`, in this order."""

    request_id: str
    user_id: str
    event_time: int
    items: tuple[str, ...]


def context_features(request: Request) -> dict[str, FeatureValue]:
    """What a feature event of a timeline says of the request: made of it, so never written out."""
    return {"size": len(request.items)}


def item_features(request: Request, position: int) -> dict[str, FeatureValue]:
    """And what it says of one of its items; `next` may be missing."""
    items = request.items
    following = items[position + 1] if position + 1 < len(items) else None
    return {"item": items[position], "first": position == 0, "next": following}


@dataclass(frozen=True)
class Action:
    """Something a user did; `event_id`, `request_id`, `value` are None where the log has none."""

    event_id: str | None
    user_id: str
    item_id: str
    request_id: str | None
    action: str
    value: float | None
    event_time: int


@dataclass(frozen=True)
class Watermark:
    """No event at or before `time` is to be expected any more (one may come nevertheless)."""

    time: int


Event = Request | Action | Watermark


@dataclass(frozen=True)
class Timeline:
    """Events in the order of arrival, and the progress at the end (None: minus infinity)."""

    events: tuple[Event, ...]
    progress: int | None = None

    def __str__(self) -> str:
        return render(self)


@dataclass(frozen=True)
class SamplingRule:
    """A rate for negatives: of a kind, with a feature's value, or both."""

    rate: float
    negative: Literal["exposed", "unexposed"] | None = None
    feature: str | None = None
    equals: FeatureValue = None


@dataclass(frozen=True)
class Sampling:
    """Which negatives are written: the first of `rules` that fits gives the rate, else `rate`."""

    rate: float = 1.0
    seed: int = 0
    rules: tuple[SamplingRule, ...] = ()


@dataclass(frozen=True)
class LabelSilence:
    """Rule 10: T, M (None: without end), and B, the `out_of_orderness` of the action stream."""

    after: int
    max_hold: int | None = None
    out_of_orderness: int = 0


@dataclass(frozen=True)
class Rules:
    """What the configuration says about a join. Durations are milliseconds.

    `windows` and `labels` have the same keys, the action kinds. `horizon` None means 2 W.
    `first_emit_after`, `emit_positives` and `final_emit` are rule 14's; `exposure` is a kind;
    `max_actions` is rule 16's N.
    """

    key: Key
    windows: Mapping[str, int]
    labels: Mapping[str, Label]
    skew: int = 0
    lateness: int = 0
    horizon: int | None = None
    immature: Literal["mark", "drop"] = "mark"
    first_emit_after: int | None = None
    emit_positives: EmitPositives = "at_settle"
    final_emit: FinalEmit = "always"
    exposure: str | None = None
    unexposed: Literal["drop", "mark"] = "drop"
    sampling: Sampling = Sampling()
    silence: LabelSilence | None = None
    max_actions: int = MANY

    def __post_init__(self) -> None:
        if not self.windows or set(self.windows) != set(self.labels):
            raise ValueError("windows and labels must name the same kinds, at least one")
        if self.exposure is not None and self.exposure not in self.windows:
            raise ValueError(f"the exposure {self.exposure!r} is none of the kinds")

    @property
    def longest(self) -> int:
        """W, the longest window."""
        return max(self.windows.values())

    @property
    def remembered(self) -> int:
        """H, the late horizon."""
        return 2 * self.longest if self.horizon is None else self.horizon

    def deadline(self, request_time: int) -> int:
        """D_r: when a request of this time settles."""
        return request_time + self.longest + self.skew + self.lateness

    def claim_deadline(self, action_time: int) -> int:
        """C_a: from here on nothing that may still come can claim an action of this time."""
        return action_time + 2 * self.skew + self.longest + self.lateness

    def forget_time(self, request_time: int) -> int:
        """X_r: when the tombstone of a request of this time goes."""
        return self.deadline(request_time) + self.remembered + self.skew


@dataclass(frozen=True)
class Row:
    """A version of a sample as it must be written. `labels`, `delays` (ms), `mature` are by kind.

    `made_at`: the watermark on which it was made, which may be well past its moment, or "end".
    """

    request_id: str
    user_id: str
    item_id: str
    position: int
    event_time: int
    labels: Mapping[str, int | float | None]
    delays: Mapping[str, int | None]
    mature: Mapping[str, bool]
    made_at: int | Literal["end"]
    observed_ms: int | None
    revision: int = 0
    kind: RowKind = "final"
    exposed: bool | None = None
    sampling_rate: float = 1.0

    @property
    def sample(self) -> tuple[str, str, int, int]:
        """Which sample it is a version of; a request id may be used again, at another time."""
        return (self.user_id, self.request_id, self.event_time, self.position)

    @property
    def sort_key(self) -> tuple[object, ...]:
        name = (self.event_time, self.user_id, self.request_id, self.position)
        return (*name, self.revision, str(self.made_at))


@dataclass(frozen=True)
class ActionIdentity:
    """An action as outputs can name it, whichever of its twins it was.

    `key` is the value of the join key. What twins may differ in without any effect (under
    `key = "user_id"` the request id, under `key = "request_id"` the user) is left out.
    """

    key: str
    event_id: str | None
    action: str
    item_id: str
    value: float | None
    event_time: int

    @property
    def sort_key(self) -> tuple[object, ...]:
        return (
            self.key,
            self.event_time,
            self.action,
            self.item_id,
            self.event_id is not None,
            self.event_id or "",
            self.value is not None,
            self.value or 0.0,
        )


@dataclass(frozen=True)
class LateAction:
    """An action that came too late for its label, with the sample (request id, position)."""

    sample: tuple[str, int]
    request_time: int
    identity: ActionIdentity
    delay: int
    reason: Literal["after_settle", "outside_window"]

    @property
    def sort_key(self) -> tuple[object, ...]:
        return (self.sample, self.request_time, self.identity.sort_key, self.delay, self.reason)


@dataclass(frozen=True)
class Rejection:
    """A record that is not used; `identity` is the whole request, or the identity of the action."""

    stream: Literal["features", "actions"]
    reason: str
    identity: Request | ActionIdentity

    @property
    def sort_key(self) -> tuple[object, ...]:
        if isinstance(self.identity, Request):
            r = self.identity
            return (self.stream, self.reason, (r.request_id, r.user_id, r.event_time, r.items))
        return (self.stream, self.reason, self.identity.sort_key)


@dataclass(frozen=True)
class Outcome:
    """What a join gave, comparable whatever the order in which it gave it.

    Everything is sorted on construction, and multiplicity counts. `counters` has `requests`,
    `settled`, `impressions` (of settled requests), `rows`, `sampled_out` (rows), `unexposed` and
    `immature_dropped` (impressions), `actions`, `joined` (to dropped rows, too), `late`, and
    `rejected.<reason>` for every reason that occurred.
    """

    rows: tuple[Row, ...]
    late: tuple[LateAction, ...]
    rejected: tuple[Rejection, ...]
    counters: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(sorted(self.rows, key=lambda x: x.sort_key)))
        object.__setattr__(self, "late", tuple(sorted(self.late, key=lambda x: x.sort_key)))
        object.__setattr__(self, "rejected", tuple(sorted(self.rejected, key=lambda x: x.sort_key)))

    def without_made_at(self) -> Outcome:
        """The same for a run that cannot tell on which watermark a row was made."""
        return replace(self, rows=tuple(replace(row, made_at=END) for row in self.rows))

    def lines(self) -> list[str]:
        """One line an output: rows, then late actions, then rejected records.

        ``r1[0] i1 click=1+5000 buy=0~ after 9000 @110000`` is a row: labels, with the delay where
        there is one, ``~`` where the window had not closed, for how long it was observed if that
        is not all of W (``?``: null), and the watermark that made it. What is not as in a plain
        ``wait`` comes in front of that: ``provisional`` or ``positive``, the revision (``r1``),
        ``exposed`` or ``unexposed``, and ``rate=0.5``.
        ``late r1[0] click i1 @105000 #e1 +5000 after_settle`` and
        ``orphan_action click i1 @105000 #e1`` and ``late_request r1 u1 @100000 [i1]`` are the rest.
        """
        out = [_row_line(row) for row in self.rows]
        for late in self.late:
            sample = f"{late.sample[0]}[{late.sample[1]}]"
            out.append(f"late {sample} {_identity(late.identity)} {late.delay:+} {late.reason}")
        for rejection in self.rejected:
            what = rejection.identity
            text = _event_line(what) if isinstance(what, Request) else _identity(what)
            out.append(f"{rejection.reason} {text}")
        return out


# -- text ------------------------------------------------------------------------------------------

_COMMENT = re.compile(r"(^|\s)#(\s.*|$)")
_REQUEST = re.compile(r"(?P<id>\S+) (?P<user>\S+) @(?P<time>-?[\d_]+) \[(?P<items>[^\]]+)\]")
_ACTION = re.compile(
    r"(?P<kind>\S+) (?P<user>\S+) (?P<item>\S+) (?P<request>\S+) @(?P<time>-?[\d_]+)"
    r"(?: #(?P<event>\S+))?(?: =(?P<value>\S+))?"
)
_WATERMARK = re.compile(r"wm (?P<time>-?[\d_]+)")
_END = re.compile(r"end(?: (?P<time>-?[\d_]+))?")


def parse(text: str) -> Timeline:
    """Read a timeline. A text without an `end` line ends with progress None.

    Raises ValueError, with the line, for a line that is none of the notation.
    """
    events: list[Event] = []
    progress: int | None = None
    ended = False
    for raw in text.splitlines():
        line = " ".join(_COMMENT.sub("", raw).split())
        if not line:
            continue
        if ended:
            raise ValueError(f"after the end: {raw!r}")
        if match := _END.fullmatch(line):
            ended = True
            progress = None if match["time"] is None else int(match["time"])
        elif match := _WATERMARK.fullmatch(line):
            events.append(Watermark(int(match["time"])))
        elif match := _REQUEST.fullmatch(line):
            items = tuple(match["items"].split())
            events.append(Request(match["id"], match["user"], int(match["time"]), items))
        elif match := _ACTION.fullmatch(line):
            events.append(
                Action(
                    event_id=match["event"],
                    user_id=match["user"],
                    item_id=match["item"],
                    request_id=None if match["request"] == "-" else match["request"],
                    action=match["kind"],
                    value=None if match["value"] is None else float(match["value"]),
                    event_time=int(match["time"]),
                )
            )
        else:
            raise ValueError(f"not a line of a timeline: {raw!r}")
    return Timeline(tuple(events), progress)


def apart(timelines: Iterable[Timeline], apart_ms: int, rules: Rules) -> Timeline:
    """One after the other, each `apart_ms` behind the one before and with ids of its own (`t0.`,
    `t1.` …), with an end that is possible under the rules.
    """
    whole = concatenate([shift(t, n * apart_ms, f"t{n}.") for n, t in enumerate(timelines)])
    if rules.silence is None or whole.progress is None:
        return whole
    # the end of the last one may be a watermark that only features brought
    shown = [event.event_time for event in whole.events if isinstance(event, Action)]
    return replace(whole, progress=min(max(shown), whole.progress) if shown else None)


def render(timeline: Timeline) -> str:
    """The text that `parse` reads back as this timeline."""
    end = "end" if timeline.progress is None else f"end {timeline.progress}"
    return "\n".join([*map(_event_line, timeline.events), end])


def _event_line(event: Event) -> str:
    match event:
        case Watermark(time):
            return f"wm {time}"
        case Request(request_id, user_id, time, items):
            return f"{request_id} {user_id} @{time} [{' '.join(items)}]"
        case Action():
            request = "-" if event.request_id is None else event.request_id
            head = f"{event.action} {event.user_id} {event.item_id} {request} @{event.event_time}"
            return head + _id_and_value(event.event_id, event.value)


def _id_and_value(event_id: str | None, value: float | None) -> str:
    out = "" if event_id is None else f" #{event_id}"
    return out if value is None else f"{out} ={_number(value)}"


def _identity(identity: ActionIdentity) -> str:
    head = f"{identity.action} {identity.item_id} @{identity.event_time}"
    return head + _id_and_value(identity.event_id, identity.value)


def _number(value: float | None) -> str:
    if value is None:
        return "null"
    return str(int(value)) if value == int(value) else repr(float(value))


def _row_line(row: Row) -> str:
    parts = [f"{row.request_id}[{row.position}]", row.item_id]
    for kind, label in row.labels.items():
        delay = row.delays[kind]
        text = f"{kind}={_number(label)}"
        text += "" if delay is None else f"{delay:+}"
        parts.append(text if row.mature[kind] else f"{text}~")
    if row.kind != "final":
        parts.append(row.kind)
    if row.revision:
        parts.append(f"r{row.revision}")
    if row.exposed is not None:
        parts.append("exposed" if row.exposed else "unexposed")
    if row.sampling_rate != 1.0:
        parts.append(f"rate={row.sampling_rate}")
    if not all(row.mature.values()):  # else it is W
        parts.append(f"after {'?' if row.observed_ms is None else row.observed_ms}")
    parts.append(f"@{row.made_at}")
    return " ".join(parts)


# -- putting timelines together --------------------------------------------------------------------


def shift(timeline: Timeline, offset_ms: int, prefix: str) -> Timeline:
    """The same timeline `offset_ms` later, with `prefix` on request, user and event ids.

    Item ids stay: they mean nothing outside of their request or user.
    """

    def named(name: str | None) -> str | None:
        return None if name is None else prefix + name

    def moved(event: Event) -> Event:
        match event:
            case Watermark(time):
                return Watermark(time + offset_ms)
            case Request(request_id, user_id, time, items):
                return Request(prefix + request_id, prefix + user_id, time + offset_ms, items)
            case Action():
                return replace(
                    event,
                    event_id=named(event.event_id),
                    user_id=prefix + event.user_id,
                    request_id=named(event.request_id),
                    event_time=event.event_time + offset_ms,
                )

    progress = None if timeline.progress is None else timeline.progress + offset_ms
    return Timeline(tuple(map(moved, timeline.events)), progress)


def concatenate(timelines: Iterable[Timeline]) -> Timeline:
    """One after the other, as one run; the end is that of the last.

    Watermarks that would go back are left out: the caller shifts the timelines apart. What a
    timeline left open at its end is settled by the watermarks of those that follow it.
    """
    events: list[Event] = []
    progress: int | None = None
    highest: int | None = None
    for timeline in timelines:
        progress = timeline.progress
        for event in timeline.events:
            if isinstance(event, Watermark):
                if highest is not None and event.time < highest:
                    continue
                highest = event.time
            events.append(event)
    if highest is not None:
        progress = highest if progress is None else max(progress, highest)
    return Timeline(tuple(events), progress)
