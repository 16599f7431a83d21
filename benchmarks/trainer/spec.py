"""What one measurement is; it travels to the child as JSON. `scratch` is the child's own folder."""

from __future__ import annotations

from typing import Literal

import msgspec

Consistency = Literal["bsp", "ssp", "async"]
Peer = Literal["vw", "sklearn", "river"]

#: Cores that a process may be pinned to.
ONE_CORE = 0


class OursSpec(msgspec.Struct, frozen=True, kw_only=True):
    """`data` and `warm`: folders of `data.folder_of`. `core`: to be pinned to. `slow`: by worker.

    `slice_share`: of the rows, those that are counted in slices of the evaluation.
    `most_in_flight`: batches; also fewer than there are workers, which a configuration cannot say.
    """

    data: str
    warm: str
    batch: int = 4096
    alpha: float = 0.5
    workers: int = 1
    servers: int = 0
    replicas: int = 1
    consistency: Consistency = "ssp"
    staleness: int = 10
    most_in_flight: int | None = None
    steps: Literal["sample", "batch"] = "sample"
    slice_share: float = 1.0
    slow: dict[int, float] = {}
    core: int | None = None
    scratch: str = ""


class PeerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """`form`: what Vowpal Wabbit reads. `rows`: only so many. `ids`: see `peer_input`.

    `predictions`: Vowpal Wabbit writes them, for its AUC.
    """

    peer: Peer
    data: str
    form: Literal["numbers", "strings", "cache"] = "numbers"
    rows: int | None = None
    alpha: float = 0.5
    ids: int = 0
    predictions: bool = False
    core: int | None = None
    scratch: str = ""


class RecoverySpec(msgspec.Struct, frozen=True, kw_only=True):
    """`kills`: of servers, one after the other."""

    data: str
    warm: str
    kills: int
    scratch: str = ""


class TableSpec(msgspec.Struct, frozen=True, kw_only=True):
    """`rows`: of the large table; `repeats`: of writing and reading it."""

    data: str
    rows: int
    repeats: int
    scratch: str = ""
