"""How much more than a period must be read, so that its rows are those of a run over everything.

All partitions are hours of a time that the record itself has: `samples/` and `late_actions/` of the
request, whenever the row was made (join-semantics 14), `rejected/` of the record. So a period is
about requests, and rejected records, of certain times, under every emission policy.

What decides on them, for records within the bounds:

- A request settles at its deadline, t + W + S + L. Its tombstone, which claims late actions and
  knows duplicates, is removed H + S later: after its *life* of W + 2 S + L + H. So nothing that
  comes later than a life after the period changes a row of it. An action is decided on at most
  W + 2 S + L after its time, and a late one has a time of at most H after that of its request: that
  is within the life, too. As these are times of the watermark, the records that move it so far are
  `out_of_orderness`, and a step of it, later.
- A record of the period may be a duplicate, or too many, because of a tombstone that is there when
  it comes. That is of a request of at most a life earlier, whose first action is up to S earlier
  than that.

Archives are cut by record timestamps, which may be `max_future` before the time of the event.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobs.pipeline.config import FilesSource, Pipeline

HOUR_MS = 3_600_000
#: How coarsely the watermark moves, for files and for Kafka.
_STEP_MS = 1_000


@dataclass(frozen=True)
class Margins:
    """What is read before and after a period, ms."""

    before: int
    after: int

    @property
    def hours(self) -> int:
        """Both together, in whole hours, rounded up each."""
        return -(-self.before // HOUR_MS) - (-self.after // HOUR_MS)

    def of(self, first: int, end: int) -> tuple[int, int]:
        """The whole hours to read for a period, as epoch ms; the end is not in it."""
        begin = (first - self.before) // HOUR_MS * HOUR_MS
        return max(0, begin), -((-end - self.after) // HOUR_MS) * HOUR_MS


def margins(pipeline: Pipeline, more: int = 0) -> Margins:
    """Those of a pipeline. `more`: what is read beyond them on both sides, ms."""
    rules = pipeline.rules
    sources = [named.source for named in pipeline.sources.each]
    disorder = max(int(source.out_of_orderness) for source in sources) + _STEP_MS
    ahead = max(0 if isinstance(s, FilesSource) else int(s.max_future) for s in sources)
    life = rules.forget_time(rules.deadline(0))
    return Margins(
        before=life + rules.skew + disorder + ahead + more,
        after=life + disorder + more,
    )
