"""What the join hands to `udfs/jvm/ExplodeSamples.java`, which makes rows of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from schemas.actions import ActionKind
from schemas.features import FeatureSchema
from udfs.core.labels import KindLabels

RowKind = Literal["provisional", "positive", "final"]


class SampleRows(msgspec.Struct, array_like=True):
    """Samples of one request, packed with msgpack. Lists are by position, of all impressions.

    `body` is the packed `RequestBody` that lay in state: the features are not unpacked in Python
    again. Its names of features must be the schema's. `positions` says which impressions get a row
    (None: all); of the others, None means 1.0 for `rates`, 0 for `versions`, null for `exposed`.
    """

    request_id: str
    event_time: int
    dt: str
    hr: str
    sample_ids: list[int]
    body: bytes
    kinds: list[KindLabels]
    kind: RowKind
    observed_ms: int | None
    exposed: list[bool] | None
    rates: list[float] | None
    versions: list[int] | None
    positions: list[int] | None


def sample_layout(schema: FeatureSchema, kinds: Sequence[ActionKind]) -> str:
    """How `SampleRows` become columns, a word each: `context:<column>:<type>` in the order of the
    context values, `item:<column>:<type>` in that of the columns, `label:<aggregate>` in that of
    the kinds. Columns count from the first feature.
    """
    column = {feature.name: i for i, feature in enumerate(schema.features)}
    words = [
        f"{scope}:{column[feature.name]}:{feature.type}"
        for scope in ("context", "item")
        for feature in schema.scoped(scope)
    ]
    return " ".join([*words, *(f"label:{kind.label}" for kind in kinds)])
