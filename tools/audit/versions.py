"""Has every impression the rows that it must have, and why has it none?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tools.audit.actions import name_of
from tools.audit.eras import Eras
from tools.audit.impressions import Ints
from tools.audit.judges import Judge
from tools.audit.records import Source
from tools.audit.report import Account, Report, place
from tools.audit.samples import Mask, Rows, row_name

#: Of an impression without a row.
CANNOT_TELL = "cannot tell"


class VersionCheck:
    """Counts impressions by what became of them, and names those that have lost a row.

    `settled`: by impression, whether its request is. `untold`: impressions that are passed over.
    """

    def __init__(
        self,
        eras: Eras,
        source: Source,
        rows: Rows,
        expected: Judge,
        settled: Mask,
        untold: set[int],
    ) -> None:
        self._eras = eras
        self._source = source
        self._rows = rows
        self._expected = expected
        self._settled = settled
        self._untold = untold
        self._negative_row = expected.negative_rows()

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
        why = self._expected.why_no_row(impression, self._expected.given(impression))
        return CANNOT_TELL if why is None and impression in self._untold else why

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
            for actions in self._expected.given(impression).values()
            for a in actions
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
            may_be_negative |= self._expected.may_have_become_negative(impression)
            if (
                may_be_negative
                and self._expected.may_be_sampled_out(impression)
                and rows.revision[row] <= self._expected.last_revision_at_most(impression)
            ):
                continue
            if impression in self._untold:
                continue
            lost[impression] = True
            gone = range(int(before[row]) + 1, int(rows.revision[row]))
            text = ", ".join(map(str, gone))
            self._name(impression, f"revision {text} is missing", report)
        return lost

    def _lost_last(self, report: Report) -> Mask:
        """With `final_emit = "always"` the last row is the final one."""
        rows, expected = self._rows, self._expected
        lost = np.zeros(self._source.impressions.count, dtype=bool)
        emissions = [pipeline.resolved_emission for pipeline in self._eras.pipelines]
        if any(emission.final_emit != "always" for emission in emissions):
            return lost
        without = rows.last & ~rows.final & self._settled[rows.impression]
        for row in np.flatnonzero(without).tolist():
            impression = int(rows.impression[row])
            if impression in self._untold:
                continue
            if expected.may_lack_final(impression, expected.given(impression)):
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

    def _check_rates(self, report: Report) -> None:
        rows = self._rows
        off = all(pipeline.negative_sampling.off for pipeline in self._eras.pipelines)
        suspects = (rows.rate != 1.0) if off else self._negative_row | (rows.rate != 1.0)
        for row in np.flatnonzero(suspects & ~rows.wrong).tolist():
            why = self._expected.wrong_rate(row)
            if why is not None:
                rows.wrong[row] = True
                name = row_name(self._source, int(rows.impression[row]), int(rows.revision[row]))
                report.find("row", name, rows.files[int(rows.file[row])], why)
