"""What the orphans in `rejected/` say about actions beyond the late horizon.

The join forgets a request after the late horizon. An action that comes later is an orphan. If its
request is among the samples, the orphan proves that the impression acted beyond the horizon.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from schemas.decoding import in_bounds
from udfs.core.matching import JoinRules


class _Orphan(msgspec.Struct):
    user_id: str
    item_id: str
    action: str
    event_time: int
    request_id: str | None = None


_decode = msgspec.json.Decoder(_Orphan).decode


@dataclass
class Orphans:
    """By kind. `of_known`: impressions that are among the samples, did not act within the horizon,
    and acted beyond it. `others`: orphans that no sample explains.
    """

    of_known: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)

    def notes(self, seen: Mapping[str, int], horizon: str) -> list[str]:
        """One line per kind that has orphans. `seen`: actions within the horizon, by kind."""
        lines = []
        for kind, count in seen.items():
            if self.of_known[kind]:
                lines.append(
                    f"{kind}: {_number(self.of_known[kind], 'orphan')} came more than {horizon}"
                    f" (the late horizon) after the request, against {_number(count, 'action')}"
                    " seen within it; raise join.late_horizon to count them"
                )
            if self.others[kind]:
                lines.append(
                    f"{kind}: orphans of no sample that was written: {self.others[kind]:,}; they"
                    " may be beyond the late horizon too"
                )
        return lines


def _number(count: int, of: str) -> str:
    return f"{count:,} {of}" if count == 1 else f"{count:,} {of}s"


def beyond_horizon(
    rejected: pa.Table | None,
    samples: pa.Table,
    rules: JoinRules,
    events_of: Callable[[bytes], Sequence[bytes]] | None = None,
) -> Orphans:
    """Count the orphans of the configured kinds; `samples` has one row per sample.

    `events_of`: the events that a record says, as docs/events.md has them; None where each record
    is one.
    """
    found = Orphans()
    if rejected is None:
        return found
    wanted = pc.and_(
        pc.equal(rejected["stream"], "actions"), pc.equal(rejected["reason"], "orphan_action")
    )
    raws: Iterable[bytes] = rejected.filter(wanted)["raw"].to_pylist()
    if events_of is not None:
        # each of the actions that a record says may have a row
        raws = [event for raw in dict.fromkeys(raws) for event in events_of(raw or b"")]
    actions = [action for raw in raws if (action := _decoded(raw))]
    if not actions:
        return found
    kinds = {kind.name for kind in rules.kinds}
    named = {(_key(a, rules), a.item_id) for a in actions}
    shown: dict[tuple[str | None, str], list[tuple[int, int]]] = defaultdict(list)
    keys, items = samples[rules.key].to_pylist(), samples["item_id"].to_pylist()
    times = samples["event_time"].to_pylist()
    for row, pair in enumerate(zip(keys, items, strict=True)):
        if pair in named:
            shown[pair].append((times[row], row))
    for showings in shown.values():
        showings.sort()
    joined = {name: samples[f"delay_{name}_ms"].is_valid().to_pylist() for name in kinds}
    counted: set[tuple[int, str]] = set()
    for action in actions:
        if action.action not in kinds:
            continue
        showings = shown.get((_key(action, rules), action.item_id), [])
        at = bisect_right(showings, (action.event_time + rules.skew, len(times)))
        if not at or action.event_time - showings[at - 1][0] <= rules.late_horizon:
            found.others[action.action] += 1
            continue
        row = showings[at - 1][1]
        if not joined[action.action][row] and (row, action.action) not in counted:
            counted.add((row, action.action))
            found.of_known[action.action] += 1
    return found


def _key(action: _Orphan, rules: JoinRules) -> str | None:
    return action.request_id if rules.key == "request_id" else action.user_id


def _decoded(raw: bytes | None) -> _Orphan | None:
    try:
        action = _decode(raw or b"")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return action if in_bounds(action.event_time) else None
