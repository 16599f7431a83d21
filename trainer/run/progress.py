"""How much a run has done so far, for those who watch it."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainer.run.job import Outcome


@dataclass
class Progress:
    """Counts of this run (without those before it was resumed).

    `keys`: distinct keys of each batch, summed. `seconds`: of `Outcome.seconds`, summed over
    batches and workers. `busy_s`: seconds in which there was something to learn.
    """

    rows: int = 0
    steps: int = 0
    keys: int = 0
    expired: int = 0
    rollbacks: int = 0
    checkpoints: int = 0
    exports: int = 0
    seconds: list[float] = field(default_factory=lambda: [0.0] * 4)
    busy_s: float = 0.0
    _first: tuple[float, int] | None = None
    _last: float = 0.0

    def count(self, outcome: Outcome, now: float) -> None:
        """Count a batch that was finished at `now`, in seconds of any clock."""
        self.rows += outcome.rows
        self.steps += 1
        self.keys += outcome.keys
        self.seconds = [a + b for a, b in zip(self.seconds, outcome.seconds, strict=True)]
        if self._first is None:
            self._first = now, self.rows
        else:
            self.busy_s += now - self._last
        self._last = now

    def idle(self, now: float) -> None:
        """There was nothing to learn until now."""
        self._last = now

    @property
    def rate(self) -> float:
        """Samples per second while there was something to learn, after the first batch.

        (The first batch waits for processes to start and for compilers.)
        """
        if self._first is None or not self.busy_s:
            return 0.0
        return (self.rows - self._first[1]) / self.busy_s
