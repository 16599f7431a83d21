"""How far event time has advanced while files are read; the watermark follows it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from udfs.core.decode_settings import StreamSettings


class FileClock:
    """The least of the times that all sources have reached, minus their bounds, in steps.

    `now` is in epoch ms and never goes back. It is 0 until each source has had a record with a
    time.
    """

    def __init__(self, settings: Mapping[str, StreamSettings]) -> None:
        """`settings`: those of each source by its key."""
        self._settings = settings
        self._reached: dict[str, int] = {}
        self.now = 0

    def shown(self, source: str, time: int, limit: int | None) -> None:
        """A record with this time was read, from a chunk with this limit (`Chunk.limit`).

        The time counts up to the limit only, because another folder of the source continues there.
        So no folder moves the clock past a record of another one, if each keeps to the bound by
        itself.
        """
        if limit is not None and limit < time:
            time = limit
        if time <= self._reached.get(source, -1):
            return
        self._reached[source] = time
        if len(self._reached) == len(self._settings):
            self.now = max(0, min(map(self._without_bound, self._settings)))

    def _without_bound(self, source: str) -> int:
        settings, time = self._settings[source], self._reached[source]
        return time - time % settings.granularity - settings.out_of_orderness
