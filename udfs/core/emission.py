"""Which rows a request gets, and when (docs/join-semantics.md 8, 11, 14). Pure.

A request has moments: the first (if it is to get rows before its deadline), those at which an
action becomes known, and its deadline. At each, the actions that are known give labels, and the
labels give rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.events import ActionEvent, RequestFront
from udfs.core import labels
from udfs.core.labels import KindLabels
from udfs.core.matching import JoinRules
from udfs.core.state_codec import StoredRequest

#: By kind of action and by position: what an impression has.
Claimed = Mapping[str, Mapping[int, Sequence[ActionEvent]]]
Moment = Literal["first", "change", "deadline"]

#: Labels are vouched for without an end.
FOREVER = 2**63 - 1


@dataclass(slots=True)
class Emitted:
    """Rows of one request, all made at one moment.

    `body` is the packed `RequestBody`, and `front` what was read of it. `kinds` are in the order of
    the rules, `exposed` is by position (None: no exposure is configured). `positions` says which
    impressions get a row (None: all), `versions` how many each had before (None: none had any).
    """

    request: StoredRequest
    front: RequestFront
    body: bytes
    moment: Moment
    kinds: list[KindLabels]
    observed_ms: int | None
    exposed: list[bool] | None
    positions: list[int] | None
    versions: list[int] | None

    @property
    def rows(self) -> int:
        return len(self.request.items) if self.positions is None else len(self.positions)


@dataclass(slots=True)
class FinalRows:
    """What the deadline gives: rows, and how many impressions never had one, and why."""

    emitted: Emitted | None
    unexposed: int
    immature: int


@dataclass(frozen=True, slots=True)
class View:
    """A moment of a request: the time, the actions that are known, how far labels are vouched for.

    `limit`: epoch ms; None is minus infinity. `at_end`: the input has ended.
    """

    now: int
    claimed: Claimed
    limit: int | None
    at_end: bool


def rows_before_deadline(
    request: StoredRequest, front: RequestFront, view: View, rules: JoinRules
) -> Emitted | None:
    """Rows of the first moment, or of a change after it. Writes down in `request` what it gave."""
    n = len(request.items)
    opening = not request.versions
    if opening:
        request.versions = [0] * n
    if not rules.on_arrival and not (opening and rules.first_emit_after is not None):
        return None
    observed = _observed(request, view, rules)
    all_get_one = opening and rules.first_emit_after is not None
    kinds = _kinds(request, view.claimed, observed, rules)
    exposed = _exposed(view.claimed, n, rules)
    wanted: list[int] | range = range(n)
    if not all_get_one:
        changed = set(_changed(request, kinds, rules))
        # with a first row, one that has none yet was put off, and an action that shows it may leave
        # its labels as they are
        due = rules.first_emit_after is not None
        wanted = [p for p in range(n) if p in changed or (due and request.versions[p] == 0)]
    positions = _shown(wanted, exposed, rules)
    if view.at_end and rules.drop_immature and _too_soon(observed, rules):
        positions = [] if all_get_one else _positives(positions, view.claimed, rules)
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
    request: StoredRequest, front: RequestFront, view: View, rules: JoinRules
) -> FinalRows:
    """The rows of rule 3, by what `final_emit` says of those that had some before."""
    n = len(request.items)
    observed = _observed(request, view, rules)
    kinds = _kinds(request, view.claimed, observed, rules)
    exposed = _exposed(view.claimed, n, rules)
    had_rows = any(request.versions)
    wanted: list[int] | range = range(n)
    if had_rows and rules.final_emit != "always":
        changed = set(_changed(request, kinds, rules)) if rules.final_emit == "if_changed" else ()
        wanted = [p for p in range(n) if request.versions[p] == 0 or p in changed]
    positions = _shown(wanted, exposed, rules)
    without = [p for p in range(n) if not (had_rows and request.versions[p])]
    unexposed = immature = 0
    if exposed is not None and rules.drop_unexposed:
        unexposed = sum(not exposed[p] for p in without)
    if rules.drop_immature and view.at_end and not all(kind.mature for kind in kinds):
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


def _too_soon(observed: int | None, rules: JoinRules) -> bool:
    """Rule 11: nothing provisional may be said yet."""
    first = rules.first_emit_after
    return first is not None and (observed is None or observed < first)


def _positives(positions: Sequence[int], claimed: Claimed, rules: JoinRules) -> list[int]:
    """Those with an action of a kind other than the exposure's."""
    telling = [of_kind for kind, of_kind in claimed.items() if kind != rules.exposure]
    return [p for p in positions if any(p in of_kind for of_kind in telling)]


def _observed(request: StoredRequest, view: View, rules: JoinRules) -> int | None:
    if view.limit is None or view.limit < request.event_time:
        return None
    return min(
        view.now - rules.skew - request.event_time,
        rules.longest_window,
        view.limit - request.event_time,
    )


def _kinds(
    request: StoredRequest, claimed: Claimed, observed: int | None, rules: JoinRules
) -> list[KindLabels]:
    n = len(request.items)
    kinds = []
    for kind in rules.kinds:
        mature = observed is not None and kind.window_ms <= observed
        of_kind = claimed.get(kind.name)
        if of_kind is None:
            kinds.append(KindLabels(None, None, mature))
            continue
        values: list[labels.Value] = [labels.without_action(kind)] * n
        delays: list[int | None] = [None] * n
        for position, actions in of_kind.items():
            values[position], delays[position] = labels.label(kind, actions, request.event_time)
        kinds.append(KindLabels(values, delays, mature))
    return kinds


def _exposed(claimed: Claimed, n: int, rules: JoinRules) -> list[bool] | None:
    if rules.exposure is None:
        return None
    exposed = [False] * n
    for of_kind in claimed.values():
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
    """The positions whose labels are not those of their last row."""
    changed: set[int] = set()
    for kind, columns in zip(rules.kinds, kinds, strict=True):
        last = request.last.get(kind.name, {})
        if columns.values is None:
            changed.update(last)
            continue
        nothing = labels.without_action(kind)
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
        nothing = labels.without_action(kind)
        for p in positions:
            value = nothing if columns.values is None else columns.values[p]
            if value == nothing:
                last.pop(p, None)
            else:
                last[p] = value
        if not last:
            del request.last[kind.name]
