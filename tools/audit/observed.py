"""Do the rows say for how long they were observed as rule 14 has it?"""

from __future__ import annotations

import math

import numpy as np

from jobs.pipeline.config import FilesSource, Pipeline
from tools.audit.eras import Eras
from tools.audit.progress import Progress
from tools.audit.records import Source
from tools.audit.report import Report
from tools.audit.samples import Floats, Mask, Rows, row_name


def check_observed(
    eras: Eras, source: Source, rows: Rows, progress: Progress, report: Report
) -> None:
    """Names the rows whose `observed_ms` cannot be right.

    `mature_<k>` follows from it, and is checked where rows are read. At which moment a row was made
    is not in it, so rows of before the deadline, of runs that did not end, and under label silence
    are held against bounds only.
    """
    fits = np.logical_or.reduce([_fits(p, source, rows, progress) for p in eras.pipelines])
    if eras.several:
        # a request keeps its deadline, whatever the windows are when it settles
        longest = max(eras.windows.values())
        fits |= np.isnan(rows.observed) | ((rows.observed >= 0) & (rows.observed <= longest))
    for row in np.flatnonzero(~fits & ~rows.wrong).tolist():
        rows.wrong[row] = True
        said = "null" if np.isnan(rows.observed[row]) else f"{rows.observed[row]:.0f}"
        report.find(
            "row",
            row_name(source, int(rows.impression[row]), int(rows.revision[row])),
            rows.files[int(rows.file[row])],
            f"observed_ms is {said}, which cannot be for a row of this kind (rule 14)",
        )


def _fits(pipeline: Pipeline, source: Source, rows: Rows, progress: Progress) -> Mask:
    """The rows whose `observed_ms` can be right under a configuration."""
    longest = max(kind.window_ms for kind in pipeline.kinds)
    times: Floats = np.array([r.event_time for r in source.accepted], dtype=np.float64)
    times = times[source.impressions.request[rows.impression]]
    observed, nothing = rows.observed, np.isnan(rows.observed)
    until = -math.inf if progress.complete_until is None else progress.complete_until
    # for how long the end of the input lets it be observed, and whether that is less than all
    at_end: Floats = np.minimum(until - times, longest)
    cut: Mask = (at_end < longest) | (not pipeline.bounded) | (pipeline.label_silence is not None)

    first = pipeline.resolved_emission.first_emit_after
    least: Floats = np.where(rows.final, longest, 0 if first is None else int(first))
    for delays in rows.delays:
        # an action is known only when its time is over
        least = np.fmax(least, np.where(rows.final, -np.inf, delays))
    fits: Mask = (observed >= np.minimum(least, longest)) & (observed <= longest)
    may_be_cut: Mask = cut & (nothing | ((observed >= 0) & (observed <= longest)))
    if pipeline.bounded and pipeline.label_silence is None:
        may_be_cut &= np.where(at_end < 0, nothing, observed == at_end)
        if _ends_with_the_records(pipeline):
            fits &= ~(rows.final & cut)
    return fits | may_be_cut


def _ends_with_the_records(pipeline: Pipeline) -> bool:
    """Whether the watermark cannot have been beyond P before the end: so it is for files, unless
    the configuration says where P is.
    """
    files = all(isinstance(named.source, FilesSource) for named in pipeline.sources.each)
    return files and pipeline.end_of_input.complete_until is None
