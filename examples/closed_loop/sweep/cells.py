"""Which runs the sweep makes. What differs between them is the configuration alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from examples.closed_loop.headless.configured import configured
from examples.closed_loop.world import Settings
from jobs.pipeline.config import Pipeline
from trainer.config import TrainerConfig

Window = Literal["5min", "30min", "1h", "6h", "1d"]
Policy = Literal["wait", "fake_negative", "es_dfm", "defer"]

WINDOWS: tuple[Window, ...] = ("5min", "30min", "1h", "6h", "1d")
POLICIES: tuple[Policy, ...] = ("wait", "fake_negative", "es_dfm", "defer")
#: A smaller world than the loop's, for three days: one run takes some seconds.
WORLD = Settings(days=3.0, requests_a_day=1200, users=120)
REFRESH_MIN = 10
#: The users of the cell that compares arms.
ARMS = {"learning": 0.4, "frozen": 0.3, "random": 0.3}


class Cell(msgspec.Struct, frozen=True):
    """One configuration.

    `window`: of a click, which is also when a request settles. `exposure`: whether what was not
    seen is no negative. `sampling`: the rate of negatives. `arms`: the users are divided by `ARMS`.
    """

    window: Window
    policy: Policy
    exposure: bool = True
    sampling: float = 1.0
    arms: bool = False

    @property
    def first_row(self) -> str | None:
        """When es_dfm and defer write their first row."""
        if self.policy not in ("es_dfm", "defer"):
            return None
        return "1min" if self.window == "5min" else "5min"

    def configuration(self) -> tuple[Pipeline, TrainerConfig]:
        """Only clicks are joined, and impressions where they are used: the model learns clicks."""
        seen = "5min" if self.window == "5min" else "30min"
        sets = [
            f"actions.click.window={self.window}",
            f"actions.impression.window={seen}",
            f"join.policy={self.policy}",
            f"sampling.rate={self.sampling}",
        ]
        if self.first_row is not None:
            sets.append(f"emission.first_emit_after={self.first_row}")
        kinds = ("impression", "click") if self.exposure else ("click",)
        # what the page was measured with
        steps = ["train.steps=batch"]
        return configured(sets, steps, kinds=kinds, exposure=self.exposure)


def cells() -> Iterator[Cell]:
    """All windows and policies; then the other factors at one hour, one at a time."""
    yield Cell("1h", "wait", arms=True)
    for window in WINDOWS:
        for policy in POLICIES:
            yield Cell(window, policy)


def other_cells() -> Iterator[Cell]:
    """See `cells`."""
    for policy in POLICIES:
        yield Cell("1h", policy, sampling=0.2)
    for policy in POLICIES:
        yield Cell("1h", policy, exposure=False)
