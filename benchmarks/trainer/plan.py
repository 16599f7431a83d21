"""What is measured: names, and the specs that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.trainer.spec import ONE_CORE, Consistency, OursSpec, PeerSpec


@dataclass(frozen=True)
class Place:
    """Folders of the data. `ids`: how many ids the peers' matrices need."""

    data: Path
    small: Path
    warm: Path
    ids: int


#: River learns one sample after the other in Python, and what scikit-learn hashes goes through
#: Python, too: for their rate a part of the samples does.
FEW = 20_000

STALE_WORKERS, STALE_SERVERS, STALE_BATCH, STALE_PAUSE_S = 4, 2, 256, 0.05

#: What the processes are called in tables.
NAMES: Mapping[str, str] = {
    "ours-4096": "1 process, 1 core, batch 4,096",
    "ours-1024": "1 process, 1 core, batch 1,024",
    "ours-share": "1 process, 1 core, 5 % in slices",
    "ours-4096-2": "1 process, 2 cores, batch 4,096",
    "ours-1-1": "1 worker, 1 server",
    "ours-1-1-16384": "1 worker, 1 server, batch 16,384",
    "ours-2-2-bsp": "2 workers, 2 servers, BSP",
    "ours-2-2-ssp": "2 workers, 2 servers, SSP 10",
    "ours-2-2-async": "2 workers, 2 servers, async",
    "vw-text": "Vowpal Wabbit, text, 1 core",
    "vw-cache": "Vowpal Wabbit, cache, 1 core",
    "vw-text-2": "Vowpal Wabbit, text, 2 cores",
    "vw-cache-2": "Vowpal Wabbit, cache, 2 cores",
    "vw-strings": "Vowpal Wabbit, strings, 1 core",
    "sklearn": "scikit-learn SGD, matrices",
    "sklearn-hashed": "scikit-learn SGD, hashed Parquet",
    "river": "river FTRL, dictionaries",
}

_Make = Callable[[Place], tuple[str, Any]]


def _ours(**settings: Any) -> _Make:
    return lambda place: (
        "run_ours",
        OursSpec(data=str(place.data), warm=str(place.warm), **settings),
    )


def _peer(**settings: Any) -> _Make:
    return lambda place: (
        "run_peer",
        PeerSpec(data=str(place.data), ids=place.ids, **settings),
    )


OURS: Mapping[str, _Make] = {
    "ours-4096": _ours(core=ONE_CORE),
    "ours-1024": _ours(core=ONE_CORE, batch=1024),
    "ours-share": _ours(core=ONE_CORE, slice_share=0.05),
    "ours-4096-2": _ours(),
    "ours-1-1": _ours(servers=1),
    "ours-1-1-16384": _ours(servers=1, batch=16384),
    "ours-2-2-bsp": _ours(workers=2, servers=2, consistency="bsp"),
    "ours-2-2-ssp": _ours(workers=2, servers=2),
    "ours-2-2-async": _ours(workers=2, servers=2, consistency="async"),
}
PEERS: Mapping[str, _Make] = {
    "vw-text": _peer(peer="vw", core=ONE_CORE),
    "vw-cache": _peer(peer="vw", form="cache", core=ONE_CORE),
    "vw-text-2": _peer(peer="vw"),
    "vw-cache-2": _peer(peer="vw", form="cache"),
    "vw-strings": _peer(peer="vw", form="strings", core=ONE_CORE),
    "sklearn": _peer(peer="sklearn", core=ONE_CORE),
    "sklearn-hashed": _peer(peer="sklearn", form="strings", core=ONE_CORE, rows=FEW),
    "river": _peer(peer="river", core=ONE_CORE, rows=FEW),
}
#: What this project is compared with.
VW_RATED = ("vw-text", "vw-cache", "vw-text-2", "vw-cache-2", "vw-strings")
#: Neighbours in time are neighbours here: ours, Vowpal Wabbit, ours, Vowpal Wabbit.
TURNS = (
    *("ours-4096", "vw-text", "ours-1024", "vw-cache", "ours-4096-2", "vw-text-2"),
    *("ours-1-1", "vw-cache-2", "ours-2-2-bsp", "vw-strings", "ours-2-2-ssp", "sklearn"),
    *("ours-2-2-async", "river", "ours-share", "sklearn-hashed", "ours-1-1-16384"),
)
#: For its AUC, once: it writes its predictions, and its time does not count.
VW_PREDICTING = _peer(peer="vw", predictions=True)
#: What learns the same as that.
VW_SAME = ("vw-text", "vw-cache", "vw-text-2", "vw-cache-2")

QUALITY: Mapping[str, str] = {
    "vw": "Vowpal Wabbit",
    "256": "batch 256",
    "1024": "batch 1,024",
    "4096": "batch 4,096",
}
ALPHAS = (0.05, 0.2, 0.5, 1.0)


def quality(name: str, alpha: float) -> _Make:
    """Of a learner of `QUALITY`."""
    if name == "vw":
        return _peer(peer="vw", alpha=alpha)
    return _ours(core=ONE_CORE, batch=int(name), alpha=alpha)


#: Of the comparison of a step per sample with one per batch: the whole of what is varied, with the
#: trainer's default alpha.
STEP_WORKERS, STEP_BATCHES, STEP_SERVERS, STEP_ALPHA = (1, 2, 4, 8), (512, 4096), 2, 0.2
STEP_CONSISTENCIES: tuple[Consistency, ...] = ("bsp", "ssp", "async")
STEP_VW = _peer(peer="vw", alpha=STEP_ALPHA, core=ONE_CORE)
STEPS: tuple[Literal["batch", "sample"], ...] = ("batch", "sample")


def steps(
    steps: Literal["batch", "sample"], consistency: Consistency, workers: int, batch: int
) -> _Make:
    """`batch`: of each worker. Under BSP all workers share one, which is larger then."""
    rows = batch * workers if consistency == "bsp" else batch
    settings = {"steps": steps, "consistency": consistency, "workers": workers, "batch": rows}
    return _ours(servers=STEP_SERVERS, alpha=STEP_ALPHA, **settings)


@dataclass(frozen=True)
class Stale:
    """A run with one slow worker: what stale batches cost in quality under `settings`."""

    title: str
    settings: Mapping[str, Any]

    def __call__(self, place: Place) -> tuple[str, Any]:
        """What to run at this place: the kind of measurement, and its specification."""
        settings = {"batch": STALE_BATCH, **self.settings}
        spec = OursSpec(
            data=str(place.small),
            warm=str(place.warm),
            workers=STALE_WORKERS,
            servers=STALE_SERVERS,
            slow={0: STALE_PAUSE_S},
            **settings,
        )
        return "run_ours", spec


STALENESS: Mapping[str, Stale] = {
    "bsp": Stale("BSP", {"consistency": "bsp"}),
    "bsp-wide": Stale(
        f"BSP, {STALE_BATCH} a worker",
        {"consistency": "bsp", "batch": STALE_BATCH * STALE_WORKERS},
    ),
    **{f"ssp-{s}": Stale(f"SSP, staleness {s}", {"staleness": s}) for s in (0, 1, 4, 10, 16)},
    "async": Stale("async", {"consistency": "async"}),
    **{
        f"async-{n}": Stale(
            f"async, at most {n} in flight", {"consistency": "async", "most_in_flight": n}
        )
        for n in (1, 2, 3)
    },
}
