"""What the join hands to `udfs/jvm/ExplodeSamples.java`, which makes rows of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from schemas.actions import ActionKind
from schemas.features import FeatureSchema
from schemas.labels import Value

RowKind = Literal["provisional", "positive", "final"]


class KindLabels(NamedTuple):
    """The columns of one kind of action for one request: a value per impression, by position.

    `values` and `delays_ms` are None when no impression had an action of the kind. Then every label
    is `schemas.labels.without_action`, and every delay is null.
    """

    values: list[Value] | None
    delays_ms: list[int | None] | None
    mature: bool


class SampleRows(msgspec.Struct, array_like=True):
    """Samples of one request, packed with msgpack. Lists are by position, of all `impressions`.

    `body` is the packed `RequestBody` that was in state. Python does not unpack its features again.
    Its feature names must be those of the schema. `positions` says which impressions get a row
    (None: all of them). For the other lists, None means: `rates` 1.0, `versions` 0, `exposed` null.
    """

    request_id: str
    event_time: int
    dt: str
    hr: str
    impressions: int
    body: bytes
    kinds: list[KindLabels]
    kind: RowKind
    observed_ms: int | None
    exposed: list[bool] | None
    rates: list[float] | None
    versions: list[int] | None
    positions: list[int] | None

    @property
    def count(self) -> int:
        """How many rows."""
        return self.impressions if self.positions is None else len(self.positions)


def sample_layout(schema: FeatureSchema, kinds: Sequence[ActionKind]) -> str:
    """How `SampleRows` become columns, as words with spaces between them.

    A word is `context:<column>:<type>`, in the order of the context values; or
    `item:<column>:<type>`, in the order of the item columns; or `label:<aggregate>`, in the order
    of the kinds. Columns are counted from the first feature.
    """
    column = {feature.name: i for i, feature in enumerate(schema.features)}
    words = [
        f"{scope}:{column[feature.name]}:{feature.type}"
        for scope in ("context", "item")
        for feature in schema.scoped(scope)
    ]
    return " ".join([*words, *(f"label:{kind.label}" for kind in kinds)])
