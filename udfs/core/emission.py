"""Which rows a request gets, and when (docs/join-semantics.md 8, 11, 14). Pure.

A request has moments: the first one, if it gets rows before its deadline; each time an action
becomes known; and its deadline. At each moment the known actions decide the labels, and the labels
decide the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from schemas.events import RequestFront
from schemas.labels import Tally, Value, without_action
from udfs.core.matching import JoinRules
from udfs.core.state_codec import StoredRequest
from udfs.core.trust import Trust
from udfs.core.wire import KindLabels

#: The known actions of a request, by kind of action and by position.
Known = Mapping[str, Mapping[int, Tally]]
Moment = Literal["first", "change", "deadline"]


class Emitted(msgspec.Struct):
    """Rows of one request that are made at one moment.

    `body` is the packed `RequestBody`, and `front` the part that was decoded. Both are None if the
    body must be read from state. `kinds` are in the order of the rules. `exposed` is by position;
    None without a configured exposure. `positions`: the impressions that get a row (None: all).
    `versions`: how many versions each had before (None: none had any).
    """

    request: StoredRequest
    front: RequestFront | None
    body: bytes | None
    moment: Moment
    kinds: list[KindLabels]
    observed_ms: int | None
    exposed: list[bool] | None
    positions: list[int] | None
    versions: list[int] | None

    @property
    def rows(self) -> int:
        """How many rows, one per impression."""
        return len(self.request.items) if self.positions is None else len(self.positions)


class FinalRows(msgspec.Struct):
    """The rows at the deadline.

    `unexposed` and `immature`: how many impressions never got a row for that reason.
    """

    emitted: Emitted | None
    unexposed: int
    immature: int


class View(msgspec.Struct):
    """A request at one moment.

    It has the time (epoch ms), the known actions, and up to when labels can be trusted. `at_end`:
    the input has ended.
    """

    now: int
    known: Known
    trust: Trust
    at_end: bool


def rows_before_deadline(
    request: StoredRequest, front: RequestFront | None, view: View, rules: JoinRules
) -> Emitted | None:
    """The rows of the first moment, or of a later change. Updates `request` with them."""
    n = len(request.items)
    opening = not request.versions
    if opening:
        request.versions = [0] * n
    if not rules.on_arrival and not (opening and rules.first_emit_after is not None):
        return None
    observed = _observed(request, view, rules)
    all_get_one = opening and rules.first_emit_after is not None
    kinds = _kinds(request, view.known, observed, rules)
    exposed = _exposed(view.known, n, rules)
    wanted: list[int] | range = range(n)
    if not all_get_one:
        changed = set(_changed(request, kinds, rules))
        # With a first row configured, an impression without a row was deferred. It gets a row now,
        # even if the action that made it exposed did not change its labels.
        due = rules.first_emit_after is not None
        wanted = [p for p in range(n) if p in changed or (due and request.versions[p] == 0)]
    positions = _shown(wanted, exposed, rules)
    if view.at_end and rules.drop_immature and _too_soon(observed, rules):
        positions = [] if all_get_one else _positives(positions, view.known, rules)
    if not positions:
        return None
    emitted = Emitted(
        request,
        front,
        request.body,
        "first" if all_get_one else "change",
        kinds,
        observed,
        exposed,
        None if len(positions) == n else list(positions),
        list(request.versions),
    )
    _remember(request, positions, kinds, rules)
    return emitted


def rows_at_deadline(
    request: StoredRequest, front: RequestFront | None, view: View, rules: JoinRules
) -> FinalRows:
    """The rows at the deadline (rule 3).

    `final_emit` says which impressions get one although they had rows before.
    """
    n = len(request.items)
    observed = _observed(request, view, rules)
    kinds = _kinds(request, view.known, observed, rules)
    exposed = _exposed(view.known, n, rules)
    had_rows = any(request.versions)
    wanted: list[int] | range = range(n)
    if had_rows and rules.final_emit != "always":
        changed = set(_changed(request, kinds, rules)) if rules.final_emit == "if_changed" else ()
        wanted = [p for p in range(n) if request.versions[p] == 0 or p in changed]
    positions = _shown(wanted, exposed, rules)
    drop_immature = rules.drop_immature and view.at_end and not all(k.mature for k in kinds)
    unexposed = immature = 0
    if exposed is not None or drop_immature:
        without = [p for p in range(n) if not (had_rows and request.versions[p])]
        if exposed is not None and rules.drop_unexposed:
            unexposed = sum(not exposed[p] for p in without)
        if drop_immature:
            immature = len(without) - unexposed
            positions = []
    if not positions:
        return FinalRows(None, unexposed, immature)
    emitted = Emitted(
        request,
        front,
        request.body,
        "deadline",
        kinds,
        observed,
        exposed,
        None if len(positions) == n else list(positions),
        request.versions if had_rows else None,
    )
    return FinalRows(emitted, unexposed, immature)


def positives(known: Known, rules: JoinRules) -> dict[str, int]:
    """By kind of action: how many impressions have one. The exposure's kind makes no positive."""
    return {kind: len(of_kind) for kind, of_kind in known.items() if kind != rules.exposure}


def _too_soon(observed: int | None, rules: JoinRules) -> bool:
    """Rule 11: the impression was not observed for long enough for a provisional row."""
    first = rules.first_emit_after
    return first is not None and (observed is None or observed < first)


def _positives(positions: Sequence[int], known: Known, rules: JoinRules) -> list[int]:
    """The positions with an action of a kind other than the exposure's."""
    others = [of_kind for kind, of_kind in known.items() if kind != rules.exposure]
    return [p for p in positions if any(p in of_kind for of_kind in others)]


def _observed(request: StoredRequest, view: View, rules: JoinRules) -> int | None:
    start = request.event_time
    return view.trust.observed_ms(start, min(view.now - rules.skew, start + rules.longest_window))


def _kinds(
    request: StoredRequest, known: Known, observed: int | None, rules: JoinRules
) -> list[KindLabels]:
    n = len(request.items)
    kinds = []
    for kind in rules.kinds:
        mature = observed is not None and kind.window_ms <= observed
        of_kind = known.get(kind.name)
        if of_kind is None:
            kinds.append(KindLabels(None, None, mature))
            continue
        values: list[Value] = [without_action(kind)] * n
        delays: list[int | None] = [None] * n
        for position, tally in of_kind.items():
            values[position] = tally.value
            delays[position] = tally.first_time - request.event_time
        kinds.append(KindLabels(values, delays, mature))
    return kinds


def _exposed(known: Known, n: int, rules: JoinRules) -> list[bool] | None:
    if rules.exposure is None:
        return None
    exposed = [False] * n
    for of_kind in known.values():
        for position in of_kind:
            exposed[position] = True
    return exposed


def _shown(
    positions: list[int] | range, exposed: list[bool] | None, rules: JoinRules
) -> list[int] | range:
    if exposed is None or not rules.drop_unexposed:
        return positions
    return [p for p in positions if exposed[p]]


def _changed(request: StoredRequest, kinds: Sequence[KindLabels], rules: JoinRules) -> list[int]:
    """The positions whose labels differ from those of their last row."""
    changed: set[int] = set()
    for kind, columns in zip(rules.kinds, kinds, strict=True):
        last = request.last.get(kind.name, {})
        if columns.values is None:
            changed.update(last)
            continue
        nothing = without_action(kind)
        changed.update(p for p, value in enumerate(columns.values) if value != last.get(p, nothing))
    return sorted(changed)


def _remember(
    request: StoredRequest,
    positions: Sequence[int],
    kinds: Sequence[KindLabels],
    rules: JoinRules,
) -> None:
    for p in positions:
        request.versions[p] += 1
    for kind, columns in zip(rules.kinds, kinds, strict=True):
        last = request.last.setdefault(kind.name, {})
        nothing = without_action(kind)
        for p in positions:
            value = nothing if columns.values is None else columns.values[p]
            if value == nothing:
                last.pop(p, None)
            else:
                last[p] = value
        if not last:
            del request.last[kind.name]
