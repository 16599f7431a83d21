"""A pipeline, and exports of models for it whose scores differ from export to export."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.features.keys import keys_of
from trainer.serving.format import Kind, Manifest
from trainer.serving.write import publish, write_part
from trainer.spec import Ftrl, ModelSpec, Segment, Slot, TableSpec

ITEMS = [f"i-{n}" for n in range(40)]
CATEGORIES = ("red", "green", "blue")
#: 2023-11-14, as epoch ms.
START = 1_700_000_000_000
VALUE = {"click": 1.0, "purchase": 2.5}

_PIPELINE = """
[join]
key = "request_id"
[actions.click]
window = "10s"
[actions.purchase]
window = "10s"
label = "sum"
[features.hour]
scope = "context"
type = "int64"
[features.category]
type = "string"
[features.price]
type = "float64"
required = false
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
[features.rank_explored]
scope = "context"
type = "bool"
role = "meta"
{sources}
[limits]
items_per_request = 50
[output]
path = "out"
"""
_SOURCE = """
[sources.{stream}]
type = "kafka"
topic = "{name}-{stream}"
bootstrap_servers = "{servers}"
"""
_RANKING = """
pipeline = "pipeline.toml"
model = "model/serving"
refresh = "{refresh}"
[value]
click = 1.0
purchase = 2.5
[exploration]
type = "epsilon"
epsilon = 0.3
[log]
score = "rank_score"
propensity = "rank_propensity"
model = "rank_model"
explored = "rank_explored"
[server]
port = {port}
max_candidates = 100
"""
_COLLECTOR = """
pipeline = "pipeline.toml"
answer_within = "{within}"
[server]
port = {port}
max_actions = 500
max_body_bytes = 100000
"""


def spec(*heads: str, slots: tuple[Slot, ...] = ()) -> ModelSpec:
    """A linear model of the item, its category and its price."""
    heads = heads or ("click", "purchase")
    return ModelSpec(
        kind="lr",
        heads=heads,
        slots=(
            Slot("bias", None, "category"),
            Slot("item_id", "item_id", "category"),
            Slot("category", "category", "category"),
            Slot("price", "price", "value", scale=0.1),
            *slots,
        ),
        tables=(TableSpec("t0", (Segment("linear", len(heads), Ftrl()),)),),
    )


@dataclass(frozen=True)
class Planted:
    """An export, its only part, and its weights: of each action, by slot and value."""

    manifest: Manifest
    part: Path
    weights: Mapping[str, Mapping[tuple[str, str], float]]

    @property
    def version(self) -> tuple[str, int]:
        return self.manifest.run_id, self.manifest.number

    def scores(self, candidates: list[dict[str, Any]]) -> list[float]:
        """What the model says that each candidate is worth, computed by hand."""
        return [
            sum(worth * self._chance(self.weights[action], one) for action, worth in VALUE.items())
            for one in candidates
        ]

    @staticmethod
    def _chance(weights: Mapping[tuple[str, str], float], candidate: dict[str, Any]) -> float:
        features = candidate["features"]
        logit = weights["bias", ""] + weights["item_id", candidate["item_id"]]
        logit += weights["category", features["category"]]
        logit += weights["price", ""] * 0.1 * features.get("price", 0.0)
        return 1 / (1 + math.exp(-logit))


def export(
    folder: Path,
    number: int,
    kind: Kind,
    run: str = "run-a",
    model: ModelSpec | None = None,
    *,
    damaged: bool = False,
) -> Planted:
    """Publishes a model whose every weight depends on its number and its run."""
    model = spec() if model is None else model
    values = {"bias": [""], "price": [""], "category": CATEGORIES, "item_id": ITEMS}
    names = [(slot, value) for slot, of_slot in values.items() for value in of_slot]
    keys = np.concatenate([keys_of(slot, of_slot) for slot, of_slot in values.items()])
    rng = np.random.default_rng([number, *run.encode()])
    weights = rng.normal(size=(len(keys), len(model.heads))).astype(np.float32)
    root = serving(folder)
    part = write_part(root / run, number, 0, "t0", keys, weights, np.empty(0, np.uint64))
    path = root / run / part.file.name
    if damaged:
        flip(path)
    manifest = Manifest(
        run_id=run,
        number=number,
        kind=kind,
        parts=(part,),
        dense=None,
        step=number,
        event_time=START + number,
        created=START + 1_000 + number,
        spec=model,
    )
    publish(root, manifest)
    of_heads = zip(model.heads, weights.T.tolist(), strict=True)
    by_head = {h: dict(zip(names, column, strict=True)) for h, column in of_heads}
    return Planted(manifest, path, by_head)


def flip(path: Path) -> None:
    """Changes the last byte of a file, or gives it back."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def serving(folder: Path) -> Path:
    """Where the service of `folder` looks for exports."""
    return folder / "model" / "serving"


def pipeline(folder: Path, servers: str = "127.0.0.1:9", name: str = "topic") -> Path:
    """The pipeline's file. Without `servers` nothing listens there."""
    sources = "".join(
        _SOURCE.format(stream=stream, name=name, servers=servers)
        for stream in ("features", "actions")
    )
    path = folder / "pipeline.toml"
    path.write_text(_PIPELINE.format(sources=sources))
    return path


def ranking(folder: Path, port: int = 0, refresh: str = "20ms") -> Path:
    """The ranking service's file, beside the pipeline's."""
    path = folder / "ranking.toml"
    path.write_text(_RANKING.format(port=port, refresh=refresh))
    return path


def collector(folder: Path, port: int = 0, within: str = "60s") -> Path:
    """The collector's file, beside the pipeline's."""
    path = folder / "collector.toml"
    path.write_text(_COLLECTOR.format(port=port, within=within))
    return path


def candidates(first: int = 0, many: int = 20) -> list[dict[str, Any]]:
    """Some candidates as a request has them; one has no price, which may be."""
    found: list[dict[str, Any]] = []
    for n in range(first, first + many):
        features: dict[str, Any] = {"category": CATEGORIES[n % 3], "price": float(n % 7)}
        if n % 11 == 5:
            del features["price"]
        found.append({"item_id": ITEMS[n % len(ITEMS)], "features": features})
    return found
