"""Up to which time labels can be trusted (docs/join-semantics.md 10 and 11). Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.events import STREAMS, stream_of


@dataclass(frozen=True, slots=True)
class Trust:
    """Labels are complete up to a time. Make one with `ALWAYS`, `NEVER` or `Trust.until`."""

    _time: float

    @classmethod
    def until(cls, time: int) -> Trust:
        """Trust up to `time`, epoch ms."""
        return cls(time)

    def and_not_beyond(self, time: int) -> Trust:
        """The lesser of this and a time, epoch ms."""
        return self if self._time <= time else Trust(time)

    def observed_ms(self, start: int, end: int) -> int | None:
        """How much of the time from `start` to `end` (epoch ms) can be trusted, in ms.

        None if not even the start can be trusted, or if the end is before it: the skew may have
        become longer since the moment of a row was set.
        """
        if self._time < start or end < start:
            return None
        return end - start if self._time >= end else int(self._time) - start


ALWAYS = Trust(math.inf)
NEVER = Trust(-math.inf)


def trust_in(
    seen: Mapping[str, int],
    *,
    sources: Sequence[str] = STREAMS,
    at_end: bool,
    complete_until: int | None,
    silence_after: int | None,
) -> Trust:
    """Up to when labels can be trusted: at the end as far as the data goes (rule 11), and with
    label silence as far as the action stream goes (rule 10).

    `seen`: the greatest time of each source so far, by its key; `sources`: the keys of all.
    `complete_until`: the configured P.
    `silence_after`: T, None when label silence is off. Times are epoch ms, T is in ms.
    """
    trust = ALWAYS
    if at_end:
        if complete_until is not None:
            trust = Trust.until(complete_until)
        elif any(source not in seen for source in sources):
            return NEVER
        else:
            trust = Trust.until(min(seen[source] for source in sources))
    if silence_after is not None:
        actions = [time for source, time in seen.items() if stream_of(source) == "actions"]
        if not actions:
            return NEVER
        trust = trust.and_not_beyond(max(actions) + silence_after)
    return trust
