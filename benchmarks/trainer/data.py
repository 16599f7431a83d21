"""Samples as the joining job writes them, from a seed, without the job.

A folder has ``pipeline.toml``, ``trainer.toml`` and ``out/samples/dt=…/hr=…/part-….parquet``, with
all columns of `schemas.samples`. What is in them (a compact form of what ``tools.generate`` makes):

* Requests of ``ITEMS`` impressions; users and items by Zipf-Mandelbrot popularity,
  p(k) ~ 1 / (k + 10).
* ``f00`` is normal, and clicks depend on it; ``f01`` and ``f04`` are numbers, ``f02`` a geometric
  integer, ``f03`` one of 8 words, ``f05`` one of 1,000 names, ``f06`` a boolean. Of all but the
  first, 2 % are missing.
* A click is drawn from a logistic model of the user, the item, the position, ``f00``, ``f03`` and
  ``f05``.

Every file has whole batches (``FILE_STEP`` rows), so that no run is slowed by a batch of another
shape.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.actions import ActionKind
from schemas.features import Feature, FeatureSchema, FeatureType
from schemas.samples import samples

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: 2023-11-14 23:00 UTC: the start of an hour.
START_MS = 1_700_002_800_000
HOUR_MS = 3_600_000
WINDOW_MS = 120_000
ITEMS = 10
FILE_STEP = 4096
WORDS = ("red", "green", "blue", "small", "large", "new", "sale", "gift")
NAMES = 1_000
MISSING_SHARE = 0.02
KINDS = (ActionKind("click", WINDOW_MS, "any"),)
TYPES = {
    "hour": "int64",
    "f00": "float64",
    "f01": "float64",
    "f02": "int64",
    "f03": "string",
    "f04": "float32",
    "f05": "string",
    "f06": "bool",
}
SCHEMA = samples(
    FeatureSchema.of(
        Feature(
            name,
            FeatureType.parse(text),
            "context" if name == "hour" else "item",
            name in ("hour", "f00"),
        )
        for name, text in TYPES.items()
    ),
    KINDS,
)
#: Slots of the model beside the bias: their columns, and whether the number is a value.
SLOTS = {
    "user_id": False,
    "item_id": False,
    "position": False,
    "hour": False,
    "f00": True,
    "f01": True,
    "f02": False,
    "f03": False,
    "f04": True,
    "f05": False,
    "f06": False,
}
#: Of ours, of Vowpal Wabbit and of river. With this alpha, of those in `plan.ALPHAS`, the log loss
#: is least for all of them; the trainer's default is 0.2.
FTRL = {"alpha": 0.5, "beta": 1.0, "l1": 0.0, "l2": 0.0}


@dataclass(frozen=True)
class Traffic:
    """`rows` is taken down to whole batches in every file."""

    rows: int
    files: int = 8
    hours: int = 4
    users: int = 200_000
    catalogue: int = 100_000
    seed: int = 1
    file_rows: int = field(init=False)

    def __post_init__(self) -> None:
        steps = self.rows // self.files // FILE_STEP
        if steps < 1 or self.files % self.hours:
            raise ValueError(
                f"at least {FILE_STEP * self.files:,} rows, and as many files in every hour"
            )
        object.__setattr__(self, "file_rows", steps * FILE_STEP)
        object.__setattr__(self, "rows", self.file_rows * self.files)

    @property
    def name(self) -> str:
        """A name for its folder: traffic of one name has the same samples."""
        return f"{self.rows}-rows-{self.files}-files-seed-{self.seed}"


def folder_of(cache: Path, traffic: Traffic) -> Path:
    """The folder with this traffic, made if it is not there yet."""
    folder = cache / traffic.name
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        write(traffic, folder)
        (folder / "complete").touch()
    return folder


def write(traffic: Traffic, folder: Path) -> None:
    """All of it under `folder`. Raises OSError where it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pipeline.toml").write_text(pipeline())
    (folder / "trainer.toml").write_text(trainer())
    rng = np.random.default_rng(traffic.seed)
    truth = _Truth.drawn(traffic, rng)
    for n in range(traffic.files):
        path = folder / "out" / "samples" / _place(traffic, n)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_file(traffic, n, truth, rng), path, compression="zstd")


def files(folder: Path) -> list[Path]:
    """The files of samples, in the order in which the trainer reads them."""
    return sorted((folder / "out" / "samples").glob("dt=*/hr=*/part-*.parquet"))


def tables(folder: Path) -> Iterator[pa.Table]:
    """The samples, a file at a time, in the order of training."""
    for path in files(folder):
        # not by the path's name, which would add dt and hr
        yield pq.ParquetFile(path).read(columns=["label_click", *SLOTS])


def _place(traffic: Traffic, n: int) -> str:
    moment = datetime.fromtimestamp((START_MS + _hour_of(traffic, n) * HOUR_MS) / 1e3, timezone.utc)
    return f"dt={moment:%Y-%m-%d}/hr={moment:%H}/part-{n:03}.parquet"


def _hour_of(traffic: Traffic, n: int) -> int:
    return n * traffic.hours // traffic.files


@dataclass(frozen=True)
class _Truth:
    """Effects on the log-odds of a click, and the distribution functions of the popularities."""

    users: Floats
    items: Floats
    words: Floats
    names: Floats
    user_cdf: Floats
    item_cdf: Floats

    @classmethod
    def drawn(cls, traffic: Traffic, rng: np.random.Generator) -> _Truth:
        return cls(
            rng.normal(0.0, 0.8, traffic.users),
            rng.normal(0.0, 0.8, traffic.catalogue),
            rng.normal(0.0, 0.3, len(WORDS)),
            rng.normal(0.0, 0.4, NAMES),
            _popularity(traffic.users),
            _popularity(traffic.catalogue),
        )


def _popularity(size: int) -> Floats:
    weights = 1.0 / (np.arange(size) + 11.0)
    return np.asarray(np.cumsum(weights) / weights.sum(), dtype=np.float64)


def _popular(cdf: Floats, size: int, rng: np.random.Generator) -> Ints:
    return np.minimum(np.searchsorted(cdf, rng.random(size)), len(cdf) - 1)


def _file(traffic: Traffic, n: int, truth: _Truth, rng: np.random.Generator) -> pa.Table:
    rows = traffic.file_rows
    requests = -(-rows // ITEMS)
    request = np.repeat(np.arange(requests), ITEMS)[:rows]
    position = np.arange(rows) % ITEMS
    span = HOUR_MS * traffic.hours // traffic.files
    times = START_MS + n * span + np.sort(rng.integers(0, span, requests))
    user = _popular(truth.user_cdf, requests, rng)[request]
    item = _popular(truth.item_cdf, rows, rng)
    name = _popular(_popularity(NAMES), rows, rng)
    word = rng.integers(0, len(WORDS), rows)
    f00 = np.round(rng.standard_normal(rows), 4)
    logit = -2.2 + 0.8 * f00 - 0.6 * np.log1p(position)
    logit += truth.users[user] + truth.items[item] + truth.words[word] + truth.names[name]
    click = rng.random(rows) < 1.0 / (1.0 + np.exp(-logit))
    delay = np.minimum(rng.lognormal(np.log(8_000.0), 1.0, rows).astype(np.int64), WINDOW_MS)
    columns = {
        "sample_id": pa.array(n * rows + np.arange(rows)),
        "request_id": _named("r", n * requests + request),
        "user_id": _named("u", user),
        "item_id": _named("i", item),
        "position": pa.array(position, pa.int32()),
        "event_time": pa.array(times[request]),
        "hour": pa.array(times[request] // HOUR_MS % 24),
        "f00": pa.array(f00),
        "f01": _with_gaps(pa.array(np.round(rng.exponential(1.0, rows), 2)), rng),
        "f02": _with_gaps(pa.array(rng.geometric(0.02, rows)), rng),
        "f03": _with_gaps(pa.array(np.array(WORDS)).take(pa.array(word)), rng),
        "f04": _with_gaps(pa.array(np.round(rng.random(rows), 3), pa.float32()), rng),
        "f05": _with_gaps(_named("n", name), rng),
        "f06": _with_gaps(pa.array(rng.random(rows) < 0.3), rng),
        "label_click": pa.array(click.astype(np.int8)),
        "delay_click_ms": pa.array(delay, mask=~click),
        "mature_click": pa.array(np.ones(rows, bool)),
        "observed_ms": pa.array(np.full(rows, WINDOW_MS)),
        "exposed": pa.nulls(rows, pa.bool_()),
        "sampling_rate": pa.array(np.ones(rows)),
        "revision": pa.array(np.zeros(rows, np.int32)),
        "kind": pa.array(["final"] * rows),
    }
    return pa.table([columns[field.name] for field in SCHEMA], schema=SCHEMA)


def _named(prefix: str, numbers: Ints) -> Any:
    return pc.binary_join_element_wise(prefix, pc.cast(pa.array(numbers), pa.string()), "")


def _with_gaps(values: Any, rng: np.random.Generator) -> Any:
    there = pa.array(rng.random(len(values)) >= MISSING_SHARE)
    return pc.if_else(there, values, None)


# -- configuration ---------------------------------------------------------------------------------


def pipeline() -> str:
    """The pipeline.toml that the joining job would have been run with."""
    parts = [
        '[pipeline]\nname = "benchmark"',
        '[join]\nkey = "request_id"\npolicy = "wait"',
        f'[actions.click]\nwindow = "{WINDOW_MS}ms"\nlabel = "any"',
    ]
    for name, text in TYPES.items():
        scope = "context" if name == "hour" else "item"
        required = "true" if name in ("hour", "f00") else "false"
        parts.append(
            f'[features.{name}]\nscope = "{scope}"\ntype = "{text}"\nrequired = {required}'
        )
    parts += (
        f'[sources.{stream}]\ntype = "files"\npath = "{stream}"'
        for stream in ("features", "actions")
    )
    parts.append('[output]\npath = "out"')
    return "\n\n".join(parts) + "\n"


def trainer() -> str:
    """The trainer.toml: logistic regression, all slots and a bias, FTRL as the peers have it."""
    settings = ", ".join(f"{key} = {value}" for key, value in FTRL.items())
    parts = [
        '[samples]\npipeline = "pipeline.toml"',
        '[model]\ntype = "lr"\nactions = ["click"]',
        f'[optimizer]\nlinear = {{ type = "ftrl", {settings} }}',
        '[output]\npath = "model"\nresume = false\ncheckpoint_every = "1d"\nexport_every = "1d"',
    ]
    parts += (
        f"[slots.{name}]" + ('\nas = "value"' if is_value else "")
        for name, is_value in SLOTS.items()
    )
    return "\n\n".join(parts) + "\n"
