"""Has every impression the rows that it must have, and why has it none?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from jobs.pipeline.config import Pipeline
from tools.audit.actions import WITHOUT, Assignment, label_of, name_of
from tools.audit.impressions import Ints
from tools.audit.progress import Progress
from tools.audit.records import Source
from tools.audit.report import Account, Report, place
from tools.audit.samples import Mask, Rows, row_name


class VersionCheck:
    """Counts impressions by what became of them, and names those that have lost a row.

    `settled`: by impression, whether its request is.
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
        self._progress = progress
        self._settled = settled
        self._sampling = pipeline.negative_sampling
        self._drop = pipeline.exposure is not None and pipeline.exposure.unexposed == "drop"
        count = source.impressions.count
        self._acted = np.zeros(count, dtype=bool)
        self._positive = np.zeros(count, dtype=bool)
        # its labels are not those of an impression without actions
        self._changed = np.zeros(count, dtype=bool)
        self._emission = pipeline.resolved_emission
        exposure = None if pipeline.exposure is None else pipeline.exposure.action
        telling = [kind.name != exposure for kind in pipeline.kinds]
        self._cells = assignment.cells
        for (k, impression), actions in assignment.cells.items():
            if actions:
                self._acted[impression] = True
                self._positive[impression] |= telling[k]
                label = pipeline.kinds[k].label
                value = label_of(label, [a.event for a in actions])
                self._changed[impression] |= value != WITHOUT[label]
        self._telling = [k for k, tells in enumerate(telling) if tells]
        self._negative_row = np.ones(len(rows), dtype=bool)
        for k in self._telling:
            self._negative_row &= np.isnan(rows.delays[k])
        self._values: dict[str, list[object]] = {}

    def check(self, account: Account, report: Report) -> None:
        """Fills the account: by reason, how many impressions went there."""
        has_rows = np.zeros(self._source.impressions.count, dtype=bool)
        has_rows[self._rows.impression] = True
        lost = self._lost_versions(report) | self._lost_last(report)
        none = np.flatnonzero(~has_rows & ~self._of_missing())
        reasons = [self._why_none(impression) for impression in none.tolist()]
        self._name_missing(none, reasons, has_rows, report)

        # of a request that is missing as a whole there are no impressions to account for
        counted = ~self._of_missing()
        went = Counter({"with rows": int((has_rows & ~lost & counted).sum())})
        went.update(r for r, i in zip(reasons, none, strict=True) if r is not None and counted[i])
        self._check_rates(report)
        account.came_in, account.went = int(counted.sum()), went

    def _of_missing(self) -> Mask:
        missing = np.array([r.missing for r in self._source.accepted], dtype=bool)
        of: Mask = missing[self._source.impressions.request]
        return of

    # -- no row at all -----------------------------------------------------------------------------

    def _why_none(self, impression: int) -> str | None:
        if not self._settled[impression]:
            return "pending"
        acted, positive = self._acted[impression], self._positive[impression]
        if self._drop and not acted:
            return "unexposed"
        if self._final_is_dropped(impression):
            return self._why_none_early(impression)
        if not positive and self._sampled_out(impression, exposed=self._exposed(bool(acted))):
            return "sampled out"
        return None

    def _why_none_early(self, impression: int) -> str | None:
        """Of one whose final row is dropped as immature: was there to be a row before it?"""
        first = self._emission.first_emit_after
        on_arrival = self._emission.emit_positives == "on_arrival"
        if first is None:
            due = on_arrival and bool(self._changed[impression])
        else:
            # a row of before its exposure is put off, and may never have come
            due = (on_arrival or not self._drop) and not self._dropped(impression, int(first))
        if not due:
            return "immature"
        if on_arrival and self._positive[impression] and self._changed[impression]:
            return None
        return "sampled out" if self._may_be_sampled_out(impression) else None

    def _final_is_dropped(self, impression: int) -> bool:
        return self._dropped(impression, max(kind.window_ms for kind in self._pipeline.kinds))

    def _dropped(self, impression: int, observed_for: int) -> bool:
        request = self._source.accepted[int(self._source.impressions.request[impression])]
        return self._progress.dropped_at_end(request.event_time, observed_for)

    def _exposed(self, acted: bool) -> bool | None:
        return None if self._pipeline.exposure is None else acted

    def _name_missing(
        self, none: Ints, reasons: Sequence[str | None], has_rows: Mask, report: Report
    ) -> None:
        """A request of which there is nothing at all is one finding."""
        request_of = self._source.impressions.request
        with_rows = np.zeros(len(self._source.accepted), dtype=bool)
        with_rows[request_of[has_rows]] = True
        for impression, reason in zip(none.tolist(), reasons, strict=True):
            if reason is not None:
                continue
            number = int(request_of[impression])
            request = self._source.accepted[number]
            if with_rows[number]:
                self._name(impression, f"it has no row{self._actions_of(impression)}", report)
            elif not request.missing:
                request.missing = True
                report.find(
                    "request",
                    request.request_id,
                    place(request.origin),
                    f"not in rejected/, and none of its {len(request.items)} impressions has a row",
                )

    def _actions_of(self, impression: int) -> str:
        given = [
            f"{name_of(a.event)} ({place(a.event.origin)})"
            for k in range(len(self._pipeline.kinds))
            for a in self._cells.get((k, impression), ())
        ]
        return f"; its actions: {', '.join(given)}" if given else ""

    # -- some rows ---------------------------------------------------------------------------------

    def _lost_versions(self, report: Report) -> Mask:
        """Gaps in the revisions that sampling does not explain."""
        rows = self._rows
        lost = np.zeros(self._source.impressions.count, dtype=bool)
        first = np.ones(len(rows), dtype=bool)
        first[1:] = rows.impression[1:] != rows.impression[:-1]
        before = np.where(first, -1, np.append([0], rows.revision[:-1])[: len(rows)])
        for row in np.flatnonzero(rows.revision != before + 1).tolist():
            impression = int(rows.impression[row])
            # versions of before this row, after one that was not a negative, are no negatives
            may_be_negative = bool(first[row]) or bool(self._negative_row[row - 1])
            if may_be_negative and self._may_be_sampled_out(impression):
                continue
            lost[impression] = True
            gone = range(int(before[row]) + 1, int(rows.revision[row]))
            text = ", ".join(map(str, gone))
            self._name(impression, f"revision {text} is missing", report)
        return lost

    def _lost_last(self, report: Report) -> Mask:
        """With `final_emit = "always"` the last row is the final one."""
        rows = self._rows
        lost = np.zeros(self._source.impressions.count, dtype=bool)
        if self._emission.final_emit != "always":
            return lost
        for row in np.flatnonzero(
            rows.last & ~rows.final & self._settled[rows.impression]
        ).tolist():
            impression = int(rows.impression[row])
            negative = not self._positive[impression]
            exposed = self._exposed(bool(self._acted[impression]))
            if self._final_is_dropped(impression):
                continue
            if negative and self._sampled_out(impression, exposed=exposed):
                continue
            lost[impression] = True
            self._name(
                impression,
                f"the final row, after revision {rows.revision[row]}, is missing",
                report,
            )
        return lost

    def _name(self, impression: int, why: str, report: Report) -> None:
        request = self._source.accepted[int(self._source.impressions.request[impression])]
        report.find("impression", row_name(self._source, impression), place(request.origin), why)

    # -- sampling ----------------------------------------------------------------------------------

    def _sampled_out(self, impression: int, *, exposed: bool | None) -> bool:
        if self._sampling.off:
            return False
        rate = self._sampling.rate_of(self._features(impression), exposed=exposed)
        sample = int(self._source.impressions.sample_id[impression])
        return not self._sampling.keeps(sample, rate)

    def _may_be_sampled_out(self, impression: int) -> bool:
        """At some time: a negative may have been unexposed first, and exposed then."""
        if self._pipeline.exposure is None:
            return self._sampled_out(impression, exposed=None)
        states = (True,) if self._drop else (False, True)
        return any(self._sampled_out(impression, exposed=state) for state in states)

    def _features(self, impression: int) -> dict[str, object]:
        """Those that the rules of sampling ask for."""
        return {name: self._column(name)[impression] for name in self._sampling.features}

    def _column(self, name: str) -> list[object]:
        if name not in self._values:
            [feature] = [f for f in self._pipeline.schema.features if f.name == name]
            everything: Ints = np.arange(self._source.impressions.count)
            column = self._source.impressions.feature(feature, everything)
            self._values[name] = column.to_pylist()
        return self._values[name]

    def _check_rates(self, report: Report) -> None:
        """Rule 9: every row carries the rate of its kind, and belongs to what is kept at it."""
        rows = self._rows
        suspects = (
            np.flatnonzero(rows.rate != 1.0)
            if self._sampling.off
            else np.flatnonzero(self._negative_row | (rows.rate != 1.0))
        )
        for row in suspects.tolist():
            if rows.wrong[row]:
                continue
            impression = int(rows.impression[row])
            exposed = None if np.isnan(rows.exposed[row]) else bool(rows.exposed[row])
            rate = 1.0
            if self._negative_row[row]:
                rate = self._sampling.rate_of(self._features(impression), exposed=exposed)
            sample = int(self._source.impressions.sample_id[impression])
            why = None
            if rows.rate[row] != rate:
                why = f"sampling_rate is {rows.rate[row]:g}; it must be {rate:g}"
            elif not self._sampling.keeps(sample, rate):
                why = f"a negative that is not sampled at rate {rate:g}"
            if why is not None:
                rows.wrong[row] = True
                name = row_name(self._source, impression, int(rows.revision[row]))
                report.find("row", name, rows.files[int(rows.file[row])], why)
