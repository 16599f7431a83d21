"""How far event time has advanced while files are read; the watermark follows it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.events import STREAMS, Stream
from udfs.core.decode_settings import StreamSettings


class FileClock:
    """The lesser of the times that both streams have reached, minus their bounds, in steps.

    `now` is in epoch ms and never goes back. It is 0 until both streams have had a record with a
    time.
    """

    def __init__(self, settings: Mapping[Stream, StreamSettings]) -> None:
        self._settings = settings
        self._reached: dict[Stream, int] = {}
        self.now = 0

    def shown(self, stream: Stream, time: int, limit: int | None) -> None:
        """A record with this time was read, from a chunk with this limit (`Chunk.limit`).

        The time counts up to the limit only, because another folder of the stream continues there.
        So no folder moves the clock past a record of another one, if each keeps to the bound by
        itself.
        """
        if limit is not None and limit < time:
            time = limit
        if time <= self._reached.get(stream, -1):
            return
        self._reached[stream] = time
        if len(self._reached) == len(STREAMS):
            self.now = max(0, min(map(self._without_bound, STREAMS)))

    def _without_bound(self, stream: Stream) -> int:
        settings, time = self._settings[stream], self._reached[stream]
        return time - time % settings.granularity - settings.out_of_orderness
