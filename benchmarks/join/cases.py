"""What is measured: the settings at which plans are compared, and how cost grows with each size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.join.spec import CLICK_PERCENT, ITEMS, PLANS, Backend, Part, Plan, Source, Spec

#: From the first request to the last, and the window: 37.5 % of the input is pending at a time.
SPAN_MS, WINDOW_MS = 1_600_000, 600_000
#: The two that need no state for each impression.
BEST: tuple[Plan, ...] = ("ours", "over")
#: Those, and ours with a thread for the sink.
THREADS: tuple[Plan, ...] = ("ours", "apart", "over")


@dataclass(frozen=True)
class Setting:
    """What `plans` are compared at; see `Spec`."""

    part: Part
    backend: Backend
    features: int
    requests: int
    repeats: int = 3
    plans: tuple[Plan, ...] = PLANS
    source: Source = "files"
    partitions: int = 1
    parallelism: int = 1
    items: int = ITEMS
    click_percent: int = CLICK_PERCENT

    def spec(self, plan: Plan) -> Spec:
        """A run of one of the plans, without the places where things lie."""
        return Spec(
            self.part,
            plan,
            self.backend,
            self.requests,
            self.features,
            SPAN_MS // self.requests,
            WINDOW_MS,
            items=self.items,
            click_percent=self.click_percent,
            source=self.source,
            partitions=self.partitions,
            parallelism=self.parallelism,
        )


#: Long enough that start-up is a small part of each run; first those that matter most.
SPEED = (
    Setting("whole", "hashmap", 8, 400_000, plans=THREADS),
    Setting("whole", "hashmap", 8, 400_000, plans=THREADS, source="kafka"),
    Setting("alone", "hashmap", 1, 200_000, plans=BEST),
    Setting("whole", "hashmap", 40, 50_000, plans=BEST),
    Setting("whole", "rocksdb", 8, 60_000, plans=BEST),
    Setting("whole", "hashmap", 8, 200_000, plans=BEST, source="kafka", partitions=4),
    Setting(
        "whole", "hashmap", 8, 200_000, plans=BEST, source="kafka", partitions=4, parallelism=2
    ),
    Setting("alone", "rocksdb", 1, 30_000, plans=BEST),
)
#: The slower plans, and other systems, on less. Start-up is a large part of the faster ones' runs.
SLOWER = (
    Setting("whole", "hashmap", 8, 50_000, plans=("ours", "interval", "spark")),
    Setting("whole", "hashmap", 8, 10_000, plans=("ours", "quix"), source="kafka"),
    Setting("alone", "hashmap", 1, 50_000, plans=("ours", "interval")),
)
#: The plan of the interval join does not end within minutes with state on disk.
QUICK = (
    Setting("alone", "hashmap", 1, 8_000, 1),
    Setting("whole", "hashmap", 8, 8_000, 1),
    Setting("whole", "hashmap", 8, 8_000, 1, source="kafka", partitions=4),
)


@dataclass(frozen=True)
class Growth:
    """One plot: settings by the size that grows. `unit`: of the size, for the axis."""

    name: str
    title: str
    unit: str
    sizes: tuple[tuple[float, Setting], ...]


def _whole(requests: int, features: int = 8, items: int = ITEMS, percent: int = 5) -> Setting:
    return Setting(
        "whole", "hashmap", features, requests, plans=BEST, items=items, click_percent=percent
    )


#: Pending state of ours, bytes a request of 20 items and 8 features (measured by ``--what state``).
_STATE_BYTES = 86 * ITEMS
_PENDING = WINDOW_MS / SPAN_MS

GROWTH = (
    Growth(
        "items",
        "Items a request",
        "items",
        tuple((n, _whole(600_000 // max(n, 6), items=n)) for n in (1, 5, 20, 50, 100, 200)),
    ),
    Growth(
        "features",
        "Features an item",
        "features",
        tuple((n, _whole(400_000 // (n + 12), features=n)) for n in (1, 4, 8, 20, 50, 100)),
    ),
    Growth(
        "actions",
        "Impressions with an action",
        "percent",
        tuple((n, _whole(30_000, percent=n)) for n in (0, 5, 10, 20, 35, 50)),
    ),
    Growth(
        "state",
        "Pending state on RocksDB, with 32 MB of managed memory",
        "MB",
        tuple(
            (
                mb,
                replace(
                    _whole(round(mb * 1e6 / _STATE_BYTES / _PENDING), features=8),
                    backend="rocksdb",
                ),
            )
            for mb in (10, 20, 40, 80)
        ),
    ),
)


def in_turns(settings: list[Setting] | tuple[Setting, ...]) -> Iterator[tuple[int, Spec]]:
    """Every run and the number of its repeat; one repeat of everything before the next, and no
    plan always first.
    """
    for repeat in range(max(s.repeats for s in settings)):
        for setting in settings:
            if repeat < setting.repeats:
                plans = setting.plans
                for i in range(len(plans)):
                    yield repeat, setting.spec(plans[(i + repeat) % len(plans)])
