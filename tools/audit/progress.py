"""How far a run has come: what it must have done with certainty, and what it may still hold.

A bounded run has done everything. Of a running one, what it has written tells a time that its
watermark had reached, and that tells which records it had read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.pipeline.config import Pipeline
from schemas.events import STREAMS, Origin, Stream, stream_of
from tools.audit.eras import Eras
from tools.audit.records import Request, Source
from tools.audit.samples import Rows
from tools.audit.source import Place, place_of


@dataclass(frozen=True)
class Progress:
    """`watermark`: what it had reached at least (epoch ms), None when everything is done, and
    `read`: up to which offset each partition of a topic was read at least by then.

    `complete_until`: rule 11's P, up to which the end of the input vouches for labels; None is
    minus infinity.
    """

    eras: Eras
    watermark: int | None
    read: dict[Stream, dict[Place, int]]
    complete_until: int | None

    def deadline(self, request_time: int) -> int:
        """D_r of join-semantics, at the latest."""
        return request_time + self.eras.wait

    def claim_deadline(self, action_time: int) -> int:
        """C_a of join-semantics, at the latest."""
        return action_time + self.eras.wait + self.eras.skew

    def was_read(self, stream: Stream, origin: Origin) -> bool:
        """Whether the job had certainly read this record when it had its watermark."""
        place = place_of(origin)
        if self.watermark is None or place is None:
            return True
        last = self.read[stream].get(place)
        return last is None or origin.offset <= last

    def settled(self, request: Request) -> bool:
        """Whether the request's deadline has passed, and the job had read the request."""
        due = self.watermark is None or self.deadline(request.event_time) <= self.watermark
        return due and self.was_read("features", request.origin)

    def decided(self, action_time: int, origin: Origin) -> bool:
        """An action that no pending request can claim: late, or an orphan."""
        due = self.watermark is None or self.claim_deadline(action_time) <= self.watermark
        return due and self.was_read("actions", origin)

    def dropped_at_end(self, request_time: int, observed_for: int) -> bool:
        """Rule 11: rows that had to be observed for so long (ms) are not written, if it was the end
        of the input that made them due.
        """
        if self.eras.present.end_of_input.immature != "drop":
            return False
        return self.complete_until is None or self.complete_until - request_time < observed_for


def progress_of(eras: Eras, source: Source, rows: Rows, late_of: list[int]) -> Progress:
    """`late_of`: the times of the requests that named late actions."""
    pipeline = eras.present
    complete_until = _complete_until(pipeline, source)
    if pipeline.bounded:
        return Progress(eras, None, {}, complete_until)
    wait, skew = eras.least_wait, eras.least_skew
    times = np.array([r.event_time for r in source.accepted], dtype=np.int64)
    of_rows = times[source.impressions.request[rows.impression]]
    early = ~rows.final & ~np.isnan(rows.observed)
    reached = [0, *(time + wait for time in late_of)]
    reached += [r.event_time + wait for r in source.rejected if r.reason == "late_request"]
    reached += [
        a.event.event_time + wait + skew for a in source.actions if a.reason == "orphan_action"
    ]
    reached.append(int(of_rows[rows.final].max(initial=-wait)) + wait)
    moments = of_rows[early] + rows.observed[early].astype(np.int64) + skew
    reached.append(int(moments.max(initial=0)))
    watermark = max(reached)
    read: dict[Stream, dict[Place, int]] = {stream: {} for stream in STREAMS}
    for key, of in source.reached.items():
        read[stream_of(key)] |= of.read_up_to(watermark)
    return Progress(eras, watermark, read, complete_until)


def _complete_until(pipeline: Pipeline, source: Source) -> int | None:
    of_actions = [of.latest for key, of in source.reached.items() if stream_of(key) == "actions"]
    actions = max((time for time in of_actions if time is not None), default=None)
    times = [reached.latest for reached in source.reached.values()]
    until = pipeline.end_of_input.complete_until
    if until is None:
        known = [time for time in times if time is not None]
        if len(known) < len(times):
            return None
        until = min(known)
    if pipeline.label_silence is not None:
        if actions is None:
            return None
        until = min(until, actions + int(pipeline.label_silence.after))
    return until
