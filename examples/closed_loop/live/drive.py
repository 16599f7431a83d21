"""The world's clock, and its users: the world's events become requests to the services."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from examples.closed_loop.events import Action, Request
from examples.closed_loop.live.clients import Collector, Ranker
from examples.closed_loop.live.journal import ARMS, Arm, Journal, Shown
from examples.closed_loop.world import World

#: Actions are handed in that often. In this time the world's clock runs ahead of what the broker
#: has, so `out_of_orderness` of the pipeline must be longer, in event time.
TICK_S = 0.25


def arm_of(user_id: str) -> Arm:
    """A user is always in the same arm."""
    return ARMS[zlib.crc32(user_id.encode()) % len(ARMS)]


@dataclass
class Clock:
    """Event time by the wall's. `speed`: event seconds for each second, at most."""

    speed: float
    begin: int = 0
    _started: float = 0.0

    def wait_for(self, event_time: int) -> None:
        """Returns when it is this time in the world (epoch ms), or later."""
        if not self.begin:
            self.begin, self._started = event_time, time.monotonic()
        ahead = (event_time - self.begin) / 1e3 / self.speed - (time.monotonic() - self._started)
        if ahead > 0:
            time.sleep(ahead)

    def pause(self, seconds: float) -> None:
        """The world stood still for so long."""
        self._started += seconds


class Drive:
    """Runs the world to its end. `now`: its present time; `failed`: what ended it before that."""

    def __init__(
        self,
        world: World,
        clock: Clock,
        rankers: Mapping[Arm, Ranker],
        collector: Collector,
        journal: Journal,
        settled: Callable[[], bool],
        stopped: threading.Event,
    ) -> None:
        """Describe it.

        Args:
            world: what happens.
            clock: how fast.
            rankers: who ranks for each arm.
            collector: who takes actions.
            journal: is told what happened.
            settled: whether the broker has all features that were logged.
            stopped: is set by `stop`; the clients look at it, too.
        """
        self._world, self._clock, self._rankers = world, clock, rankers
        self._collector, self._journal, self._settled = collector, journal, settled
        self._actions: list[Action] = []
        self._ticked = time.monotonic()
        self.now = 0
        self.failed: BaseException | None = None
        self._stop = stopped
        self._until: Callable[[int], bool] = lambda _: True
        self._thread = threading.Thread(target=self._run, name="world", daemon=True)

    def start(self) -> None:
        """In a thread of its own."""
        self._thread.start()

    @property
    def begin(self) -> int:
        """The world's first moment, epoch ms; 0 before that."""
        return self._clock.begin

    @property
    def runs(self) -> bool:
        """Whether the world has not come to its end."""
        return self._thread.is_alive()

    def hold_until(self, condition: Callable[[int], bool]) -> None:
        """The world stands still while this is not true of `now`."""
        self._until = condition

    def _hold(self) -> None:
        begun = time.monotonic()
        while not self._until(self.now) and not self._stop.is_set():
            self._tick()
            time.sleep(TICK_S)
            self._clock.pause(time.monotonic() - begun)
            begun = time.monotonic()

    def stop(self) -> None:
        """Ends the world now."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for event in self._world.events():
                if self._stop.is_set():
                    break
                self._clock.wait_for(event.time)
                self.now = event.time
                self._hold()
                if time.monotonic() - self._ticked > TICK_S:
                    self._tick()
                if isinstance(event, Request):
                    self._rank(event)
                else:
                    self._actions.append(event)
            self._tick()
        except Exception as error:  # told by whoever waits for the end
            self.failed = error

    def _rank(self, request: Request) -> None:
        arm = arm_of(request.user_id)
        ranker = self._rankers[arm]
        waits, begun = ranker.waits, time.monotonic()
        ranking = ranker.rank(request)
        self._journal.add(
            Shown(
                request.request_id,
                request.user_id,
                arm,
                request.time,
                ranking.model,
                ranking.model_time,
                self._world.expected_clicks(request, ranking.items),
                self._world.expected_clicks(request, self._world.best(request)),
                ranking.items,
                ranking.asked_again,
            )
        )
        self._world.show(request, ranking.items)
        if ranker.waits > waits:
            self._stand_still(begun)

    def _tick(self) -> None:
        """Hands in the actions; the world goes on when the broker has them."""
        begun = time.monotonic()
        if self._actions:
            waits = self._collector.waits
            self._collector.send(self._actions)
            self._journal.act(self._actions)
            self._actions = []
            if self._collector.waits > waits:
                self._stand_still(begun)
        self._ticked = time.monotonic()

    def _stand_still(self, since: float) -> None:
        """After an outage: until no feature waits for the broker, or it would come too late."""
        while not self._settled() and not self._stop.is_set():
            time.sleep(TICK_S)
        self._clock.pause(time.monotonic() - since)
