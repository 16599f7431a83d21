"""The file of the ranking service. docs/ranking.md has all keys."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import msgspec

from configuration import paths
from configuration.reading import Duration, Section, Wrong, read, wrong_in
from jobs.pipeline import config
from online.exploration import EpsilonGreedy, Exploration, Greedy, Softmax
from online.http_service import AtLeastOne, Port
from schemas.features import Feature, FeatureSchema, Scope


class ExplorationSection(Section, frozen=True):
    """`[exploration]`: how often a ranking is another one than that by score."""

    type: Literal["none", "epsilon", "softmax"] = "none"
    epsilon: float = 0.05
    temperature: float = 0.1

    def make(self) -> Exploration:
        """What it says."""
        match self.type:
            case "epsilon":
                return EpsilonGreedy(self.epsilon)
            case "softmax":
                return Softmax(self.temperature)
            case _:
                return Greedy()


class LogSection(Section, frozen=True):
    """`[log]`: features of the pipeline that say how an item was ranked; none: it is not logged."""

    score: str | None = None
    propensity: str | None = None
    model: str | None = None
    explored: str | None = None


class ServerSection(Section, frozen=True):
    """`[server]`: where it listens, and how large a request may be."""

    address: str = "127.0.0.1"
    port: Port = 8080
    max_candidates: AtLeastOne = 1000
    max_body_bytes: AtLeastOne = 4 << 20


class RankingConfig(Section, frozen=True):
    """The whole file. `value`: what a predicted action is worth; a score is the weighted sum."""

    pipeline: str
    model: str
    value: dict[str, float]
    refresh: Duration = Duration(1_000)
    exploration: ExplorationSection = ExplorationSection()
    log: LogSection = LogSection()
    server: ServerSection = ServerSection()


def load(path: Path) -> tuple[RankingConfig, config.Pipeline]:
    """The file, and the pipeline that it names. Paths are those beside the file.

    Raises ConfigError.
    """
    found = read(path, RankingConfig)
    wrong = wrong_in(path, ())
    found = msgspec.structs.replace(
        found,
        pipeline=str(paths.beside(path, found.pipeline)),
        model=str(paths.beside(path, found.model)),
    )
    pipeline = config.load(Path(found.pipeline))
    explored = found.exploration
    if not 0 <= explored.epsilon <= 1:
        raise wrong("exploration.epsilon", f"expected 0 to 1; got {explored.epsilon}")
    if not 1e-6 <= explored.temperature <= 1e6:
        raise wrong("exploration.temperature", f"expected 1e-6 to 1e6; got {explored.temperature}")
    if found.refresh <= 0:
        raise wrong("refresh", "must be longer than 0")
    if not found.value:
        raise wrong("value", "expected at least one action")
    for action, worth in found.value.items():
        if not math.isfinite(worth):
            raise wrong(f"value.{action}", f"expected a finite number; got {worth}")
        if action not in {kind.name for kind in pipeline.kinds}:
            raise wrong(f"value.{action}", "the pipeline has no such action")
    _check_log(found.log, pipeline.schema, wrong)
    return found, pipeline


def _check_log(log: LogSection, schema: FeatureSchema, wrong: Wrong) -> None:
    places: tuple[tuple[str, Scope, str], ...] = (
        ("score", "item", "float64"),
        ("propensity", "item", "float64"),
        ("model", "context", "string"),
        ("explored", "context", "bool"),
    )
    declared: dict[str, Feature] = {feature.name: feature for feature in schema.features}
    for key, scope, type_ in places:
        name = getattr(log, key)
        if name is None:
            continue
        feature = declared.get(name)
        if feature is None or feature.scope != scope or str(feature.type) != type_:
            raise wrong(
                f"log.{key}",
                f"the pipeline must declare features.{name}, type {type_}, scope {scope}",
            )
        if key in ("score", "model") and feature.required:
            raise wrong(
                f"log.{key}",
                f"features.{name} must have required = false, for without a model there is none",
            )
