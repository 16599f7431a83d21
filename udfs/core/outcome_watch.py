"""Watches the share of bad outcomes while a job runs. Pure: it counts what it is told.

A stream is judged in stretches of a fixed number of events, not of time. So the warnings depend on
the events alone.
"""

from __future__ import annotations

#: Events per stretch: so many that a few stragglers do not matter.
STRETCH = 1_000


class OutcomeWatch:
    """Warns when more than `bound` (0 to 1) of a stretch ended badly.

    It warns when a bad stretch follows a good one, and then after twice as many bad stretches each
    time. So a job that fails for days does not fill its log.
    """

    def __init__(self, bound: float, stretch: int = STRETCH) -> None:
        self._bound, self._stretch = bound, stretch
        self._seen = self._bad = 0
        self._bad_stretches, self._speak_at = 0, 1

    def good(self) -> None:
        """An event ended well. This never causes a warning, because it can only lower the share."""
        self._seen += 1
        if self._seen >= self._stretch:
            self._close()

    def bad(self) -> int | None:
        """An event ended badly. Returns the bad events of this stretch when it is time to warn."""
        self._seen += 1
        self._bad += 1
        # the share is above the bound whatever comes, so there is no need to wait for the rest
        over = self._bad > self._bound * self._stretch
        said = self._bad if over and self._speaks() else None
        if self._seen >= self._stretch:
            self._close()
        return said

    def _speaks(self) -> bool:
        """Whether to warn: once per bad stretch, at the first, second, fourth … in a row."""
        if self._bad != int(self._bound * self._stretch) + 1:
            return False
        if self._bad_stretches + 1 < self._speak_at:
            return False
        self._speak_at *= 2
        return True

    def _close(self) -> None:
        if self._bad > self._bound * self._stretch:
            self._bad_stretches += 1
        else:
            self._bad_stretches, self._speak_at = 0, 1
        self._seen = self._bad = 0
