"""The configurations that an output was made with.

A job may go on from a savepoint with another configuration (docs/configuration.md). Then rows, late
actions and rejects of both lie in the same folders.

A request keeps the deadline of its arrival, and is decided by what held at its deadline. At which
event time the configuration changed is written nowhere. So what any of the configurations explains
is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from configuration import reading, stores
from jobs.pipeline import places, runs
from jobs.pipeline.config import ConfigError, Pipeline

#: What may change over a savepoint and changes what becomes of a record.
_DECIDING = (
    "join",
    "actions",
    "emission",
    "exposure",
    "sampling",
    "label_silence",
    "end_of_input",
    "limits",
)


@dataclass(frozen=True)
class Eras:
    """The different configurations, the present one first. Durations are in ms."""

    pipelines: Sequence[Pipeline]

    @property
    def present(self) -> Pipeline:
        """The one that the audit was given."""
        return self.pipelines[0]

    @property
    def several(self) -> bool:
        """Whether the configuration has changed."""
        return len(self.pipelines) > 1

    @property
    def windows(self) -> dict[str, int]:
        """By kind, the longest."""
        kinds = [kind for pipeline in self.pipelines for kind in pipeline.kinds]
        return {kind.name: max(k.window_ms for k in kinds if k.name == kind.name) for kind in kinds}

    @property
    def skew(self) -> int:
        """The greatest."""
        return max(int(pipeline.join.clock_skew) for pipeline in self.pipelines)

    @property
    def least_skew(self) -> int:
        """The least."""
        return min(int(pipeline.join.clock_skew) for pipeline in self.pipelines)

    @property
    def items(self) -> tuple[int, int]:
        """How many items a request may have: the least and the greatest."""
        limits = [pipeline.limits.items_per_request for pipeline in self.pipelines]
        return min(limits), max(limits)

    @property
    def actions(self) -> tuple[int, int]:
        """How many actions a join key may have (rule 16): the least and the greatest."""
        limits = [pipeline.max_actions for pipeline in self.pipelines]
        return min(limits), max(limits)

    @property
    def wait(self) -> int:
        """From a request to its deadline at most: W + S + L."""
        return max(map(_wait, self.pipelines))

    @property
    def least_wait(self) -> int:
        """From a request to its deadline at least."""
        return min(map(_wait, self.pipelines))

    @property
    def remembered(self) -> int:
        """By how much a request must be later to be accepted under the id of another one, whose
        tombstone goes at t + W + 2 S + L + H: H + S, for it settles at t + W + S + L itself.
        """
        return min(map(_remembered, self.pipelines))


def eras_of(pipeline: Pipeline, notes: list[str]) -> Eras:
    """What `_runs.jsonl` of the output says beside the given configuration.

    A note tells of starts whose rows cannot be judged by their own configuration. Raises
    ConfigError.
    """
    try:
        starts = runs.known(stores.folder(pipeline.output.path, pipeline.object_storage))
    except (places.PlaceError, OSError) as error:
        raise ConfigError(str(error)) from None
    found, other = [pipeline], 0
    for start in starts:
        if start.start == "overwrite":
            found, other = [pipeline], 0
        if start.pipeline is None:
            continue
        read = reading.convert(start.pipeline, Pipeline)
        if read is None or not _comparable(read, pipeline):
            other += 1
            continue
        values = {name: getattr(read, name) for name in _DECIDING}
        era = msgspec.structs.replace(pipeline, **values)
        if era not in found:
            found.append(era)
    if other:
        notes.append(
            f"{other} of {len(starts)} starts of the job had other features, other kinds of action,"
            " another key or another mapping, or were of another release: their rows are held"
            " against the present configuration."
        )
    return Eras(found)


def _comparable(one: Pipeline, other: Pipeline) -> bool:
    """Whether the columns mean the same."""
    kinds, others = ([(k.name, k.label) for k in p.kinds] for p in (one, other))
    return (
        kinds == others
        and one.schema == other.schema
        and one.join.key == other.join.key
        and one.events == other.events
    )


def _wait(pipeline: Pipeline) -> int:
    longest = max(kind.window_ms for kind in pipeline.kinds)
    return longest + int(pipeline.join.clock_skew) + int(pipeline.join.allowed_lateness)


def _remembered(pipeline: Pipeline) -> int:
    horizon = pipeline.join.late_horizon
    longest = max(kind.window_ms for kind in pipeline.kinds)
    return (2 * longest if horizon is None else int(horizon)) + int(pipeline.join.clock_skew)
