"""What the rows of an impression must say, if certain actions were given to it.

One impression at a time, and all that beyond the bounds may have become of it
(docs/join-semantics.md). `tools.audit.labels` and `tools.audit.versions` find the impressions that
are worth such a look, and name what is wrong; `tools.audit.reassign` asks about other assignments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import combinations

import numpy as np

from jobs.pipeline.config import Pipeline
from tools.audit.actions import WITHOUT, Assignment, label_of
from tools.audit.impressions import Ints
from tools.audit.progress import Progress
from tools.audit.records import Action, Request, Source
from tools.audit.samples import Mask, Rows

#: The actions given to an impression, by number of the kind.
Given = Mapping[int, Sequence[Action]]

#: Of so many actions every subset is tried. Beyond it, what a subset can give is estimated.
_SUBSETS_OF = 8


class Agrees(Enum):
    """How closely a row must agree with the actions that are given to its impression."""

    EXACTLY = auto()  # label and delay: it was made at the deadline
    IN_VALUE = auto()  # the label; stragglers may have come before the earliest action that it knew
    OR_AS_BEFORE = auto()  # the same, or as it was before a later request took actions away
    PARTLY = auto()  # some of the actions were known when it was made


@dataclass(frozen=True)
class Label:
    """What a row says of one kind. `value` and `delay` (ms): None is null."""

    value: float | None
    delay: float | None


class Expected:
    """Judges single impressions. `settled`: by impression, whether its request is."""

    def __init__(
        self,
        pipeline: Pipeline,
        source: Source,
        rows: Rows,
        assignment: Assignment,
        progress: Progress,
        settled: Mask,
    ) -> None:
        self._pipeline = pipeline
        self._has_changed = progress.eras.several
        self._source = source
        self._rows = rows
        self._assignment = assignment
        self._progress = progress
        self._settled = settled
        self._emission = pipeline.resolved_emission
        self._on_arrival = self._emission.emit_positives == "on_arrival"
        self._may_have_early_rows = self._on_arrival or self._emission.first_emit_after is not None
        self._sampling = pipeline.negative_sampling
        self._drop = pipeline.exposure is not None and pipeline.exposure.unexposed == "drop"
        exposure = None if pipeline.exposure is None else pipeline.exposure.action
        #: Numbers of the kinds whose actions make a row one that is no negative (rule 9).
        self.telling = [k for k, kind in enumerate(pipeline.kinds) if kind.name != exposure]
        self._starts = np.searchsorted(rows.impression, np.arange(source.impressions.count + 1))
        self._values: dict[str, list[object]] = {}

    # -- a whole impression ------------------------------------------------------------------------

    def given(self, impression: int) -> dict[int, list[Action]]:
        """The actions that the assignment gives to an impression now."""
        cells = self._assignment.cells
        return {k: cells.get((k, impression), []) for k in range(len(self._pipeline.kinds))}

    def fits(self, impression: int, given: Given) -> bool:
        """Whether the last row of the impression, or that it has none, agrees with these actions.

        The rows before the last one are not looked at: they hold some of the actions that any
        assignment may give.
        """
        if not self._settled[impression]:
            return True
        start, end = int(self._starts[impression]), int(self._starts[impression + 1])
        if start == end:
            return self.why_no_row(impression, given) is not None
        last = end - 1
        return (bool(self._rows.final[last]) or self.may_lack_final(impression, given)) and all(
            self._fits_read(k, last, given) for k in given
        )

    def _fits_read(self, k: int, row: int, given: Given) -> bool:
        how = self.how(row, given)
        if self.row_fits(k, row, given[k], how):
            return True
        read = self.read(given[k])
        return len(read) < len(given[k]) and self.row_fits(k, row, read, how)

    def read(self, actions: Sequence[Action]) -> list[Action]:
        """Those that the run must have read."""
        return [a for a in actions if self._progress.was_read("actions", a.event.origin)]

    def why_no_row(self, impression: int, given: Given) -> str | None:
        """The reason for which an impression with these actions may have no row at all; None if it
        must have one.
        """
        if not self._settled[impression]:
            return "pending"
        if self._drop and not _any(given):
            return "unexposed"
        if self._final_is_dropped(impression):
            return self._why_no_early_row(impression, given)
        left_out = self._is_sampled_out(impression, given)
        if self._may_have_early_rows and self._emission.final_emit != "always":
            # What was left out before counts as a row, and what came then may have changed nothing.
            left_out |= not self._is_changed(given, self.telling) and self.may_be_sampled_out(
                impression
            )
        return "sampled out" if left_out else None

    def _why_no_early_row(self, impression: int, given: Given) -> str | None:
        """Of one whose final row is dropped as immature: was there to be a row before it?"""
        first = self._emission.first_emit_after
        request = self._request(impression)
        if request.reached >= self._progress.deadline(request.event_time) - 1:
            return "immature"  # it came so late that it may have had no moment before its deadline
        if first is None:
            due = self._on_arrival and self._is_changed(given, given)
        else:
            # a row of before its exposure is put off, and may never have come
            due = (self._on_arrival or not self._drop) and not self._dropped(impression, int(first))
        if not due:
            return "immature"
        if self._on_arrival and self._is_changed(given, self.telling):
            return None  # rows that are no negatives are always written
        return "sampled out" if self.may_be_sampled_out(impression) else None

    def _is_changed(self, given: Given, kinds: Iterable[int]) -> bool:
        """Whether a label of these kinds is not that of an impression without actions."""
        labels = self._pipeline.kinds
        return any(self._value(k, given[k]) != WITHOUT[labels[k].label] for k in kinds)

    def may_lack_final(self, impression: int, given: Given) -> bool:
        """Whether a settled impression with these actions, and with earlier rows, may be without a
        final row.
        """
        return (
            self._emission.final_emit != "always"
            or self._final_is_dropped(impression)
            or (self._drop and not _any(given))
            or self._is_sampled_out(impression, given)
        )

    def last_revision_at_most(self, impression: int) -> int:
        """Every row but the first follows from an action that came, went, or gave way to another,
        or from the deadline.
        """
        if not self._may_have_early_rows:
            return 0
        cells = [(k, impression) for k in range(len(self._pipeline.kinds))]
        came = sum(len(self._assignment.cells.get(cell, ())) for cell in cells)
        went = sum(len(self._assignment.once.get(cell, ())) for cell in cells)
        return came + 2 * went + 1

    def negative_rows(self) -> Mask:
        """The rows that are negatives (rule 9)."""
        rows = self._rows
        negative = np.ones(len(rows), dtype=bool)
        for k in self.telling:
            negative &= np.isnan(rows.delays[k])
        return negative

    # -- a row -------------------------------------------------------------------------------------

    def how(self, row: int, given: Given) -> Agrees:
        """How closely a row must agree with the actions of its impression."""
        rows = self._rows
        if rows.final[row]:
            return Agrees.EXACTLY
        impression = int(rows.impression[row])
        if not rows.last[row] or not self._settled[impression]:
            return Agrees.PARTLY
        # What differs from the row may have been left out.
        if (self._drop and not _any(given)) or self._is_sampled_out(impression, given):
            return Agrees.PARTLY
        if self._final_is_dropped(impression) and not (
            self._on_arrival and not self.is_negative(given)
        ):
            return Agrees.PARTLY
        if self._emission.final_emit == "never":
            # what only a longer window lets match becomes known at no moment
            is_all = self._on_arrival and not self._has_changed
            return Agrees.OR_AS_BEFORE if is_all else Agrees.PARTLY
        return Agrees.IN_VALUE

    def is_partial(self, row: int, given: Given) -> bool:
        """Whether the row need not know of every action."""
        return self.how(row, given) is Agrees.PARTLY

    def row_fits(self, k: int, row: int, actions: Sequence[Action], how: Agrees) -> bool:
        """Whether a row's label of kind `k` agrees with these actions."""
        cell = k, int(self._rows.impression[row])
        found = self.label(k, row)
        once = [a for a in self._assignment.once.get(cell, ()) if a not in actions]
        match how:
            case Agrees.EXACTLY:
                delays = self.delays(cell, actions)
                return found == Label(self._value(k, actions), min(delays, default=None))
            case Agrees.PARTLY:
                return self._some_give(k, cell, found, [*actions, *once])
            case Agrees.IN_VALUE | Agrees.OR_AS_BEFORE:
                delays = self.delays(cell, [*actions, *once])
                if found.delay is not None and found.delay not in delays:
                    return False
                if found.value == self._value(k, actions):
                    return True
                return how is Agrees.OR_AS_BEFORE and any(
                    found.value == self._value(k, [*actions, *taken]) for taken in _subsets(once)
                )

    def agrees(self, k: int, row: int, given: Given, actions: Sequence[Action]) -> bool:
        """The same for these actions of kind `k`, as closely as for those that are given."""
        return self.row_fits(k, row, actions, self.how(row, given))

    def label(self, k: int, row: int) -> Label:
        """What a row says of kind `k`."""
        value, delay = self._rows.labels[k][row], self._rows.delays[k][row]
        return Label(
            None if math.isnan(value) else float(value),
            None if math.isnan(delay) else float(delay),
        )

    def delays(self, cell: tuple[int, int], actions: Sequence[Action]) -> list[float]:
        """In ms after the cell's request."""
        time = self._request(cell[1]).event_time
        return [float(a.event.event_time - time) for a in actions]

    def _value(self, k: int, actions: Sequence[Action]) -> float | None:
        return label_of(self._pipeline.kinds[k].label, [a.event for a in actions])

    def _some_give(
        self, k: int, cell: tuple[int, int], found: Label, actions: Sequence[Action]
    ) -> bool:
        """Whether some of these actions give the label; of many, whether that can be."""
        label = self._pipeline.kinds[k].label
        if found.delay is None:
            return found.value == WITHOUT[label]
        delays = self.delays(cell, actions)
        known = [a for a, d in zip(actions, delays, strict=True) if d >= found.delay]
        first = [a for a, d in zip(actions, delays, strict=True) if d == found.delay]
        if not first:
            return False
        if len(known) <= _SUBSETS_OF:
            return any(
                found.value == self._value(k, some)
                for some in _subsets(known)
                if any(a in first for a in some)
            )
        if label in ("any", "count"):
            return 1 <= (found.value or 0) <= (1 if label == "any" else len(known))
        if label in ("max", "last"):
            return found.value in [a.event.value for a in known]
        return True

    # -- sampling, and the end ---------------------------------------------------------------------

    def is_negative(self, given: Given) -> bool:
        """Rule 9."""
        return not any(given[k] for k in self.telling)

    def _rate(self, impression: int, *, exposed: bool | None) -> float:
        """The rate of a negative row of the impression (rule 9)."""
        features = {name: self._column(name)[impression] for name in self._sampling.features}
        return self._sampling.rate_of(features, exposed=exposed)

    def wrong_rate(self, row: int) -> str | None:
        """Rule 9: every row carries the rate of its kind, and belongs to what is kept at it."""
        rows, rate = self._rows, 1.0
        impression = int(rows.impression[row])
        if all(math.isnan(rows.delays[k][row]) for k in self.telling):
            exposed = None if np.isnan(rows.exposed[row]) else bool(rows.exposed[row])
            rate = self._rate(impression, exposed=exposed)
        if rows.rate[row] != rate:
            return f"sampling_rate is {rows.rate[row]:g}; it must be {rate:g}"
        if not self._sampling.keeps(int(self._source.impressions.sample_id[impression]), rate):
            return f"a negative that is not sampled at rate {rate:g}"
        return None

    def may_be_sampled_out(self, impression: int) -> bool:
        """At some time: a negative may have been unexposed first, and exposed then."""
        if self._pipeline.exposure is None:
            return self._is_left_out(impression, exposed=None)
        states = (True,) if self._drop else (False, True)
        return any(self._is_left_out(impression, exposed=state) for state in states)

    def may_have_become_negative(self, impression: int) -> bool:
        """Whether all its telling actions may have been taken away from it."""
        return any(self._assignment.once.get((k, impression)) for k in self.telling)

    def _is_sampled_out(self, impression: int, given: Given) -> bool:
        exposed = None if self._pipeline.exposure is None else _any(given)
        return self.is_negative(given) and self._is_left_out(impression, exposed=exposed)

    def _is_left_out(self, impression: int, *, exposed: bool | None) -> bool:
        if self._sampling.off:
            return False
        rate = self._rate(impression, exposed=exposed)
        sample = int(self._source.impressions.sample_id[impression])
        return not self._sampling.keeps(sample, rate)

    def _column(self, name: str) -> list[object]:
        if name not in self._values:
            [feature] = [f for f in self._pipeline.schema.features if f.name == name]
            everything: Ints = np.arange(self._source.impressions.count)
            column = self._source.impressions.feature(feature, everything)
            self._values[name] = column.to_pylist()
        return self._values[name]

    def _final_is_dropped(self, impression: int) -> bool:
        return self._dropped(impression, max(kind.window_ms for kind in self._pipeline.kinds))

    def _dropped(self, impression: int, observed_for: int) -> bool:
        return self._progress.dropped_at_end(self._request(impression).event_time, observed_for)

    def _request(self, impression: int) -> Request:
        return self._source.accepted[int(self._source.impressions.request[impression])]


def _any(given: Given) -> bool:
    """Rule 8: whether the impression is exposed at the end."""
    return any(given.values())


def _subsets(actions: Sequence[Action]) -> Iterator[Sequence[Action]]:
    """All that are not empty; of many actions, each alone and all together."""
    if len(actions) > _SUBSETS_OF:
        yield from ([action] for action in actions)
        yield actions
        return
    for n in range(1, len(actions) + 1):
        yield from combinations(actions, n)
