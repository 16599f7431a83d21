"""Do the labels of the rows agree with the actions that must be in them?

The last row of a sample that is decided has to know of every action that was given to it; the
rows before it, of some of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from schemas.actions import ActionKind
from tools.audit.actions import WITHOUT, Assignment, label_of, name_of
from tools.audit.eras import Eras
from tools.audit.expected import Label
from tools.audit.impressions import Ints
from tools.audit.judges import Judge
from tools.audit.records import Action, Source
from tools.audit.report import Report, place
from tools.audit.samples import Floats, Mask, Rows, row_name


class LabelCheck:
    """Holds rows against the actions that were given to their impressions, and names what differs.

    `settled`: by impression, whether its request is. `untold`: impressions that are passed over.
    After `check`, `unfit` has the actions that are in no row and must be, `pending` those that need
    not have been read yet (both by `id`).
    """

    def __init__(
        self,
        eras: Eras,
        source: Source,
        rows: Rows,
        assignment: Assignment,
        expected: Judge,
        settled: Mask,
        untold: set[int],
    ) -> None:
        self._eras = eras
        self._source = source
        self._rows = rows
        self._assignment = assignment
        self._expected = expected
        self._untold = untold
        self._times = np.array([r.event_time for r in source.accepted], dtype=np.int64)
        # whoever made these had to know of every action, or almost
        self._last = rows.final | (rows.last & settled[rows.impression])
        self.unfit: set[int] = set()
        self.pending: set[int] = set()

    def check(self, report: Report) -> None:
        """Compare labels, delays and exposure of all rows; `report` gets the findings."""
        for k, kind in enumerate(self._eras.present.kinds):
            for row in self._that_differ(k, kind).tolist():
                if int(self._rows.impression[row]) not in self._untold:
                    self._judge(k, kind, row, report)
        self._check_exposed(report)

    # -- one kind ----------------------------------------------------------------------------------

    def _of_all(self, k: int, kind: ActionKind) -> tuple[Floats, Floats]:
        """Label and delay of every impression, NaN for null, of all actions given to it."""
        count = self._source.impressions.count
        without = WITHOUT[kind.label]
        labels = np.full(count, math.nan if without is None else without)
        delays = np.full(count, math.nan)
        for (of_kind, impression), actions in self._assignment.cells.items():
            if of_kind == k and actions:
                value = label_of(kind.label, [a.event for a in actions])
                time = self._times[self._source.impressions.request[impression]]
                labels[impression] = math.nan if value is None else value
                delays[impression] = min(a.event.event_time for a in actions) - time
        return labels, delays

    def _that_differ(self, k: int, kind: ActionKind) -> Ints:
        """The rows that do not simply say what all actions of their impression give."""
        rows = self._rows
        labels, delays = self._of_all(k, kind)
        found = rows.labels[k], rows.delays[k]
        same = _same(found[0], labels[rows.impression]) & _same(found[1], delays[rows.impression])
        # nothing was known yet
        without = WITHOUT[kind.label]
        nothing = _same(found[0], np.float64(math.nan if without is None else without))
        early = nothing & np.isnan(found[1]) & ~self._last
        return np.flatnonzero(~same & ~early)

    def _judge(self, k: int, kind: ActionKind, row: int, report: Report) -> None:
        rows, expected = self._rows, self._expected
        cell = k, int(rows.impression[row])
        given = expected.given(cell[1])
        actions = given[k]
        if expected.agrees(k, row, given, actions):
            return
        if expected.is_partial(row, given):
            self._name_row(kind, row, expected.label(k, row), actions, report)
            return
        read = expected.read(actions)
        if len(read) < len(actions) and expected.agrees(k, row, given, read):
            self.pending |= {id(a) for a in actions} - {id(a) for a in read}
            return
        one_less = [[b for b in actions if b is not a] for a in actions]
        fitting = [
            a
            for a, others in zip(actions, one_less, strict=True)
            if expected.agrees(k, row, given, others)
        ]
        if not fitting:
            self._name_row(kind, row, expected.label(k, row), actions, report)
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

    def _name_row(
        self,
        kind: ActionKind,
        row: int,
        found: Label,
        actions: Sequence[Action],
        report: Report,
    ) -> None:
        given = ", ".join(f"{name_of(a.event)} ({place(a.event.origin)})" for a in actions)
        self._name(
            row,
            f"label_{kind.name} is {_text(found.value)} with delay {_text(found.delay)}; its"
            f" actions: {given or 'none'}",
            report,
        )

    def _name(self, row: int, why: str, report: Report) -> None:
        """Each row is named once."""
        rows = self._rows
        if rows.wrong[row]:
            return
        rows.wrong[row] = True
        name = row_name(self._source, int(rows.impression[row]), int(rows.revision[row]))
        report.find("row", name, rows.files[int(rows.file[row])], why)

    # -- exposure ----------------------------------------------------------------------------------

    def _check_exposed(self, report: Report) -> None:
        """Rule 8: the row says what its own delays say, and is there if that is to be written."""
        rows = self._rows
        known = np.zeros(len(rows), dtype=bool)
        for delays in rows.delays:
            known |= ~np.isnan(delays)
        right = {
            None: np.isnan(rows.exposed),
            "drop": (rows.exposed == 1.0) & known,
            "mark": _same(rows.exposed, known.astype(np.float64)),
        }
        exposures = [pipeline.exposure for pipeline in self._eras.pipelines]
        kinds = {None if e is None else e.unexposed for e in exposures}
        for row in np.flatnonzero(~np.logical_or.reduce([right[k] for k in kinds])).tolist():
            why = f"exposed is {_text(rows.exposed[row])}, its actions say otherwise"
            if kinds == {"drop"} and rows.exposed[row] == 0.0 and not known[row]:
                why = "it is not exposed, and must not be written"
            self._name(row, why, report)


def _same(found: Floats, expected: Floats | np.float64) -> Mask:
    """NaN, which stands for null, is NaN."""
    same: Mask = (found == expected) | (np.isnan(found) & np.isnan(expected))
    return same


def _text(value: float | None) -> str:
    return "null" if value is None or math.isnan(value) else f"{value:.15g}"
