"""Servers are killed while training goes on: ``python -m benchmarks.trainer.run_recovery SPEC``.

Two servers, each with the backup of the other's shard; two workers. A server is killed (SIGKILL)
some batches after every shard has got two copies again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks.trainer.child import tell
from benchmarks.trainer.spec import OursSpec, RecoverySpec

if TYPE_CHECKING:
    from trainer.run.coordinator import Coordinator
    from trainer.run.session import Session

BATCH = 256
#: Longer batches, so that the samples last for all kills: a new server needs some seconds.
PAUSE_S = 0.05
#: Batches with all copies there before the next kill.
_BETWEEN = 50


class Killer:
    """Watches a session and kills servers; the results are seconds since the kill, one a kill.

    `stalls`: to the first batch that was finished after the coordinator had made the copies
    primaries. `begun_after`: to one more than there are workers, which was begun after that.
    `restored`: until all shards had two copies again.
    """

    def __init__(self, kills: int) -> None:
        self.stalls: list[float] = []
        self.begun_after: list[float] = []
        self.restored: list[float] = []
        self._kills = kills
        self._killed_at, self._recovered = 0.0, 0
        self._waiting = False
        #: Batches since all copies were there, and since the copies became primaries.
        self._quiet = self._after = 0

    def watch(self, session: Session) -> None:
        """After each batch."""
        from benchmarks.trainer.sessions import coordinator_in

        runner = coordinator_in(session)
        assert runner is not None
        if self._waiting:
            self._look(runner, time.monotonic() - self._killed_at)
            return
        self._quiet += 1
        if len(self.stalls) < self._kills and self._quiet >= _BETWEEN:
            # the servers in turns, the newest one too
            numbers = sorted(runner.servers.running)
            victim = runner.servers.running[numbers[len(self.stalls) % len(numbers)]]
            self._recovered = len(runner.recoveries)
            self._killed_at = time.monotonic()
            os.kill(victim.pid, signal.SIGKILL)
            self._waiting, self._after = True, 0

    def _look(self, runner: Coordinator, seconds: float) -> None:
        if len(runner.recoveries) == self._recovered:
            return
        self._after += 1
        if self._after == 1:
            self.stalls.append(seconds)
        if self._after == 1 + runner.job.workers:
            self.begun_after.append(seconds)
        if self._after > runner.job.workers and runner.repaired:
            self.restored.append(seconds)
            self._waiting, self._quiet = False, 0

    @property
    def finished(self) -> bool:
        """Whether all kills were made, and all copies are there again."""
        return len(self.restored) == self._kills


def main() -> int:
    """One measurement, as a process of its own: a `RecoverySpec` as JSON in, figures out."""
    spec = msgspec.json.decode(sys.argv[1], type=RecoverySpec)
    tell(**measured(spec))
    return 0


def measured(spec: RecoverySpec) -> dict[str, Any]:
    """Until it has been done often enough. Raises ValueError if the samples end before."""
    from benchmarks.trainer.sessions import session_of
    from benchmarks.trainer.warming import warm_up

    ours = OursSpec(
        data=spec.data,
        warm=spec.warm,
        scratch=spec.scratch,
        batch=BATCH,
        workers=2,
        servers=2,
        slow={0: PAUSE_S, 1: PAUSE_S},
    )
    killer = Killer(spec.kills)
    session = session_of(ours, killer.watch, lambda: killer.finished)
    try:
        warm_up(session, Path(spec.warm))
        session.run()
        stats = session.runner.stats()
    finally:
        session.runner.stop()
    if not killer.finished:
        raise ValueError(f"the samples ended after {len(killer.restored)} of {spec.kills} kills")
    return {
        "stalls_s": killer.stalls,
        "begun_after_s": killer.begun_after,
        "restored_s": killer.restored,
        "rows": session.progress.rows,
        "rollbacks": session.progress.rollbacks,
        "keys": stats["rows"],
    }


if __name__ == "__main__":
    sys.exit(main())
