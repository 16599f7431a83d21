"""Which worker may begin a batch: bulk-synchronous, bounded staleness, asynchronous. Pure.

A worker's clock is the number of batches that it has finished.

* `bsp`: all workers share each batch, and all finish it before the next begins (Valiant 1990).
* `ssp`: a worker begins a batch only while its clock minus the least of all clocks is at most
  `staleness` (Ho et al., More effective distributed ML via a stale synchronous parallel parameter
  server, NIPS 2013).
* `async`: no bound but the cap.

In all of them at most `most_in_flight` batches are begun and not finished: the number of stale
batches is what costs quality.
"""

from __future__ import annotations

from typing import Literal

Consistency = Literal["bsp", "ssp", "async"]


class Clocks:
    """The clocks of the workers, which are numbered from 0."""

    def __init__(
        self, consistency: Consistency, workers: int, staleness: int, most_in_flight: int
    ) -> None:
        self.consistency = consistency
        self.clocks = [0] * workers
        #: The greatest lead of a worker that began a batch.
        self.widest = 0
        #: How often a worker was refused a batch.
        self.held = 0
        self._staleness, self._most = staleness, max(1, most_in_flight)
        self._busy: set[int] = set()

    @property
    def in_flight(self) -> int:
        """Batches that are begun and not finished."""
        return len(self._busy)

    @property
    def lead(self) -> int:
        """Batches by which the fastest worker is ahead of the slowest now."""
        return max(self.clocks) - min(self.clocks)

    def may_begin(self, worker: int) -> bool:
        """Whether a worker that has nothing to do may begin a batch.

        The caller asks for the worker with the least clock first, because an idle worker is not a
        slow one.
        """
        if worker in self._busy or len(self._busy) >= self._most:
            return False
        if self.consistency != "ssp":
            return True
        lead = self.clocks[worker] - min(self.clocks)
        if lead > self._staleness:
            self.held += 1
            return False
        return True

    def begin(self, worker: int) -> None:
        """The worker begins a batch; `may_begin` has said that it may."""
        lead = self.clocks[worker] - min(self.clocks)
        self.widest = max(self.widest, lead)
        self._busy.add(worker)

    def finish(self, worker: int) -> None:
        """The worker has finished its batch, so its clock advances."""
        self._busy.discard(worker)
        self.clocks[worker] += 1

    def reset(self) -> None:
        """Nothing is in flight any more (a rollback)."""
        self._busy.clear()
