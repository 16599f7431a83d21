"""Do the labels of the rows agree with the actions that must be in them?

The last row of a sample that is decided has to know of every action that was given to it; the
rows before it, of some of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jobs.pipeline.config import Pipeline
from schemas.actions import ActionKind
from tools.audit.actions import WITHOUT, Assignment, Cell, label_of, name_of
from tools.audit.impressions import Ints
from tools.audit.progress import Progress
from tools.audit.records import Action, Source
from tools.audit.report import Report, place
from tools.audit.samples import Floats, Mask, Rows, row_name


@dataclass(frozen=True)
class _Label:
    """What a row says of one kind; None is null. `final`: it was made at the deadline."""

    value: float | None
    delay: float | None
    final: bool


class LabelCheck:
    """Holds rows against the actions that were given to their impressions, and names what differs.

    `settled`: by impression, whether its request is. After `check`, `unfit` has the actions that
    are in no row and must be, `pending` those that need not have been read yet (both by `id`).
    """

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
        self._source = source
        self._rows = rows
        self._assignment = assignment
        self._progress = progress
        self._settled = settled
        self._emission = pipeline.resolved_emission
        self._times = np.array([r.event_time for r in source.accepted], dtype=np.int64)
        self._last_row = np.full(source.impressions.count, -1, dtype=np.int64)
        self._last_row[rows.impression[rows.last]] = np.flatnonzero(rows.last)
        self._complete = self._must_be_complete()
        self.unfit: set[int] = set()
        self.pending: set[int] = set()

    def check(self, report: Report) -> None:
        """Compare labels, delays and exposure of all rows; `report` gets the findings."""
        for k, kind in enumerate(self._pipeline.kinds):
            self._move(k, kind)
            for row in self._that_differ(k, kind).tolist():
                self._judge(k, kind, row, report)
        self._check_exposed(report)

    # -- one kind ----------------------------------------------------------------------------------

    def _expected(self, k: int, kind: ActionKind) -> tuple[Floats, Floats]:
        """Label and delay of every impression, NaN for null, of all actions given to it."""
        count = self._source.impressions.count
        without = WITHOUT[kind.label]
        labels = np.full(count, math.nan if without is None else without)
        delays = np.full(count, math.nan)
        for (of_kind, impression), actions in self._assignment.cells.items():
            if of_kind == k and actions:
                value, delay = self._of(kind, (k, impression), actions)
                labels[impression] = math.nan if value is None else value
                delays[impression] = math.nan if delay is None else delay
        return labels, delays

    def _of(
        self, kind: ActionKind, cell: Cell, actions: list[Action]
    ) -> tuple[float | None, float | None]:
        label = label_of(kind.label, [a.event for a in actions])
        return label, min(self._delays(cell, actions), default=None)

    def _delays(self, cell: Cell, actions: list[Action]) -> list[float]:
        time = int(self._times[self._source.impressions.request[cell[1]]])
        return [float(a.event.event_time - time) for a in actions]

    def _that_differ(self, k: int, kind: ActionKind) -> Ints:
        """The rows that do not simply say what all actions of their impression give."""
        rows = self._rows
        labels, delays = self._expected(k, kind)
        found = rows.labels[k], rows.delays[k]
        same = _same(found[0], labels[rows.impression]) & _same(found[1], delays[rows.impression])
        # nothing was known yet
        without = WITHOUT[kind.label]
        nothing = _same(found[0], np.float64(math.nan if without is None else without))
        early = nothing & np.isnan(found[1]) & ~self._complete
        return np.flatnonzero(~same & ~early)

    def _must_be_complete(self) -> Mask:
        """The rows that have to know of every action of their impression."""
        rows, emission = self._rows, self._emission
        last = rows.last & self._settled[rows.impression]
        if emission.emit_positives == "on_arrival":
            return last
        if emission.final_emit == "if_changed" and self._pipeline.end_of_input.immature == "mark":
            return last
        return last & rows.final

    def _judge(self, k: int, kind: ActionKind, row: int, report: Report) -> None:
        rows = self._rows
        found = self._label(k, row)
        cell = k, int(rows.impression[row])
        actions = self._assignment.cells.get(cell, [])
        if not self._complete[row]:
            if not self._may_be(kind, cell, found, actions):
                self._name_row(kind, row, found, actions, report)
            return
        if self._fits(kind, cell, found, actions) or self._was_right(kind, cell, found, actions):
            return
        read = [a for a in actions if self._progress.was_read("actions", a.event.origin)]
        if len(read) < len(actions) and self._fits(kind, cell, found, read):
            self.pending |= {id(a) for a in actions} - {id(a) for a in read}
            return
        one_less = [[b for b in actions if b is not a] for a in actions]
        fitting = [
            a
            for a, others in zip(actions, one_less, strict=True)
            if self._fits(kind, cell, found, others)
        ]
        if not fitting:
            self._name_row(kind, row, found, actions, report)
            return
        # of several that would do, the one that came last is the likeliest to have come too late
        lost = fitting[-1]
        self.unfit.add(id(lost))
        report.find(
            "action",
            name_of(lost.event),
            place(lost.event.origin),
            f"neither in late_actions/ nor in rejected/, nor in label_{kind.name} of the sample"
            f" that must hold it: {row_name(self._source, cell[1], int(rows.revision[row]))} in"
            f" {rows.files[int(rows.file[row])]}",
        )

    def _label(self, k: int, row: int) -> _Label:
        rows = self._rows
        value, delay = rows.labels[k][row], rows.delays[k][row]
        return _Label(
            None if math.isnan(value) else float(value),
            None if math.isnan(delay) else float(delay),
            bool(rows.final[row]),
        )

    def _fits(self, kind: ActionKind, cell: Cell, found: _Label, actions: list[Action]) -> bool:
        """Whether exactly these actions give the label. A row of before the deadline keeps the
        delay of what was known by then: a straggler may be earlier, and change no label.
        """
        value, delay = self._of(kind, cell, actions)
        if found.value != value:
            return False
        if found.final or found.delay == delay:
            return found.delay == delay
        return found.delay is None or found.delay in self._delays(cell, actions)

    def _may_be(self, kind: ActionKind, cell: Cell, found: _Label, actions: list[Action]) -> bool:
        """Whether some of these actions may give the label, as far as that can be told quickly."""
        if found.delay is None:
            return found.value == WITHOUT[kind.label]
        known = found.delay in self._delays(cell, actions)
        if kind.label in ("any", "count"):
            return known and 1 <= (found.value or 0) <= len(actions)
        if kind.label in ("max", "last"):
            return known and found.value in [a.event.value for a in actions]
        return known

    def _name_row(
        self,
        kind: ActionKind,
        row: int,
        found: _Label,
        actions: list[Action],
        report: Report,
    ) -> None:
        rows = self._rows
        impression = int(rows.impression[row])
        if rows.wrong[row]:
            return
        rows.wrong[row] = True
        given = ", ".join(f"{name_of(a.event)} ({place(a.event.origin)})" for a in actions)
        report.find(
            "row",
            row_name(self._source, impression, int(rows.revision[row])),
            rows.files[int(rows.file[row])],
            f"label_{kind.name} is {_text(found.value)} with delay {_text(found.delay)}; its"
            f" actions: {given or 'none'}",
        )

    # -- key = "user_id" ---------------------------------------------------------------------------

    def _move(self, k: int, kind: ActionKind) -> None:
        """Gives actions to the earlier request that has them, when the later one came too late to
        take them: where that makes the row of the earlier one right.
        """
        for cell, others in self._assignment.elsewhere.items():
            row = self._last_row[cell[1]] if cell[0] == k else -1
            if row < 0:
                continue
            found, own = self._label(k, int(row)), self._assignment.cells.get(cell, [])
            if self._fits(kind, cell, found, own):
                continue
            for moved in _some_or_all(others):
                if self._fits(kind, cell, found, own + [action for action, _ in moved]):
                    if not found.final and all(self._shown(kind, now) for _, now in moved):
                        break  # both have it: rows that are written are not taken back
                    for action, now in moved:
                        self._assignment.cells[now].remove(action)
                        self._assignment.cells[cell].append(action)
                    break

    def _shown(self, kind: ActionKind, cell: Cell) -> bool:
        """Whether the last row of a cell has all that is given to it now."""
        row = int(self._last_row[cell[1]])
        actions = self._assignment.cells[cell]
        return row >= 0 and self._fits(kind, cell, self._label(cell[0], row), actions)

    def _was_right(
        self, kind: ActionKind, cell: Cell, found: _Label, actions: list[Action]
    ) -> bool:
        """A row of before the deadline may hold what a request from beyond the bounds took."""
        others = self._assignment.elsewhere.get(cell, ())
        return not found.final and any(
            self._fits(kind, cell, found, [*actions, *(action for action, _ in taken)])
            for taken in _some_or_all(others)
        )

    # -- exposure ----------------------------------------------------------------------------------

    def _check_exposed(self, report: Report) -> None:
        """Rule 8: the row says what its own delays say."""
        rows = self._rows
        if self._pipeline.exposure is None:
            other = ~np.isnan(rows.exposed)
        else:
            known = np.zeros(len(rows), dtype=bool)
            for delays in rows.delays:
                known |= ~np.isnan(delays)
            other = ~_same(rows.exposed, known.astype(np.float64))
        for row in np.flatnonzero(other & ~rows.wrong).tolist():
            rows.wrong[row] = True
            report.find(
                "row",
                row_name(self._source, int(rows.impression[row]), int(rows.revision[row])),
                rows.files[int(rows.file[row])],
                f"exposed is {_text(rows.exposed[row])}, its actions say otherwise",
            )


def _some_or_all(
    others: Sequence[tuple[Action, Cell]],
) -> list[list[tuple[Action, Cell]]]:
    """Each alone, and all together."""
    return [*([other] for other in others), list(others)]


def _same(found: Floats, expected: Floats | np.float64) -> Mask:
    """NaN, which stands for null, is NaN."""
    same: Mask = (found == expected) | (np.isnan(found) & np.isnan(expected))
    return same


def _text(value: float | None) -> str:
    return "null" if value is None or math.isnan(value) else f"{value:.15g}"
