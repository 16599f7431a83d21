"""What is measured: a trained model, the services' files, and requests with their candidates."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.ranking.asking import post
from benchmarks.trainer import data

_ROOT = Path(__file__).resolve().parents[2]
MODELS = {
    "lr": (),
    "fm": ("model.type=fm", "model.embedding=8", "model.scale=0.05"),
    "deepfm": (
        *("model.type=deepfm", "model.embedding=8", "model.scale=0.05"),
        "model.hidden=[64, 32]",
    ),
}
_CONTEXT = ("hour",)
_ITEM = ("f00", "f01", "f02", "f03", "f04", "f05", "f06")
_META = """
[features.rank_score]
type = "float64"
role = "meta"
required = false

[features.rank_propensity]
type = "float64"
role = "meta"

[features.rank_model]
scope = "context"
type = "string"
role = "meta"
required = false
"""
_SOURCE = """
[sources.{stream}]
type = "kafka"
topic = "{stream}"
bootstrap_servers = "{servers}"
"""
_RANKING = """
pipeline = "online.toml"
model = "{model}/serving"
[value]
click = 1.0
[exploration]
type = "epsilon"
[log]
score = "rank_score"
propensity = "rank_propensity"
model = "rank_model"
[server]
port = {port}
"""
_COLLECTOR = """
pipeline = "online.toml"
[server]
port = {port}
"""


def train(folder: Path, model: str) -> Path:
    """A trained model of this kind; returns its output, made if it is not there yet.

    Raises CalledProcessError.
    """
    output = folder / f"model-{model}"
    if not (output / "serving" / "current.json").exists():
        settings = (f"output.path={output}", *MODELS[model])
        subprocess.run(
            [
                *(sys.executable, "-m", "trainer.train", "--config", folder / "trainer.toml"),
                *(argument for setting in settings for argument in ("--set", setting)),
            ],
            cwd=_ROOT,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return output


def online(folder: Path, servers: str) -> Path:
    """The pipeline of the services: that of the samples, with topics and how it was ranked."""
    text = data.pipeline()
    at, end = text.index("[sources.features]"), text.index("[output]")
    sources = "".join(_SOURCE.format(stream=s, servers=servers) for s in ("features", "actions"))
    path = folder / "online.toml"
    path.write_text(text[:at] + _META + sources + "\n" + text[end:])
    return path


def ranking(folder: Path, model: Path, port: int) -> Path:
    """The file of a ranking service."""
    path = folder / "ranking.toml"
    path.write_text(_RANKING.format(model=model, port=port))
    return path


def collector(folder: Path, port: int) -> Path:
    """The file of a collector."""
    path = folder / "collector.toml"
    path.write_text(_COLLECTOR.format(port=port))
    return path


@dataclass(frozen=True)
class Asked:
    """A request to rank: as the service gets it, and what is scored, as a table and as values."""

    request: bytes
    candidates: pa.Table
    user_id: str
    context: dict[str, Any]
    items: list[tuple[str, dict[str, Any]]]


def requests(folder: Path, candidates: int, many: int) -> Iterator[Asked]:
    """Requests with so many candidates each, from the samples."""
    samples = pq.ParquetFile(data.files(folder)[-1]).read()
    for n in range(many):
        rows = samples.slice(n * candidates % (len(samples) - candidates), candidates)
        values = rows.select(["user_id", "item_id", *_CONTEXT, *_ITEM]).to_pylist()
        user, context = values[0]["user_id"], {name: values[0][name] for name in _CONTEXT}
        items = [
            (one["item_id"], {name: one[name] for name in _ITEM if one[name] is not None})
            for one in values
        ]
        body = {
            "user_id": user,
            "context": context,
            "candidates": [{"item_id": item, "features": found} for item, found in items],
        }
        yield Asked(post("/rank", body), rows.combine_chunks(), user, context, items)


def batches(size: int, many: int) -> list[bytes]:
    """Requests to the collector with so many actions each."""
    return [
        post(
            "/actions",
            {
                "actions": [
                    {
                        "kind": "click",
                        "user_id": f"u{k % 97}",
                        "item_id": f"i{k % 89}",
                        "request_id": f"r{n}-{k}",
                        "event_id": f"e{n}-{k}",
                        "event_time": data.START_MS + k,
                    }
                    for k in range(size)
                ]
            },
        )
        for n in range(many)
    ]
