"""The impressions of the accepted requests, as columns: what the rows of a job are held against."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.features import Feature, FeatureSchema
from schemas.sample_id import sample_ids
from tools.audit.decoding import DecodedRequest

Ints = npt.NDArray[np.int64]

#: Impressions whose features are Python objects at a time.
_BATCH = 20_000


class Impressions:
    """By impression, in the order in which requests were added. `seal` when all were.

    `request`: the number of its request. `position`, `sample_id`: int64. `item_id`: strings.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        self._context = schema.scoped("context")
        self._items = schema.scoped("item")
        self._values: dict[str, list[Any]] = {f.name: [] for f in schema.features}
        self._chunks: dict[str, list[pa.Array]] = {f.name: [] for f in schema.features}
        self._lengths: list[int] = []
        self._ids: list[int] = []
        self._item_ids: list[str] = []
        self._id_chunks: list[Ints] = []
        self._item_chunks: list[pa.Array] = []
        self.count = 0

    def add(self, request: DecodedRequest) -> None:
        """A request more."""
        for feature, value in zip(self._context, request.context, strict=True):
            self._values[feature.name].append(value)
        for feature, column in zip(self._items, request.columns, strict=True):
            self._values[feature.name] += column
        self._lengths.append(len(request.items))
        self._item_ids += request.items
        self._ids += sample_ids(request.request_id, request.items)
        self.count += len(request.items)
        if len(self._ids) >= _BATCH:
            self._pack()

    def _pack(self) -> None:
        for feature in (*self._context, *self._items):
            values = self._values[feature.name]
            self._chunks[feature.name].append(pa.array(values, type=feature.type.arrow))
            values.clear()
        self._id_chunks.append(np.array(self._ids, dtype=np.int64))
        self._item_chunks.append(pa.array(self._item_ids, type=pa.string()))
        self._ids.clear()
        self._item_ids.clear()

    def seal(self) -> None:
        """Make the arrays; called once, after the last impression was added."""
        self._pack()
        lengths = np.array(self._lengths, dtype=np.int64)
        self.request: Ints = np.repeat(np.arange(len(lengths)), lengths)
        starts = np.cumsum(lengths) - lengths
        self.position: Ints = np.arange(self.count) - np.repeat(starts, lengths)
        self.sample_id: Ints = np.concatenate(self._id_chunks)
        self.item_id = pa.concat_arrays(self._item_chunks)
        self._columns = {
            name: pa.concat_arrays(chunks) for name, chunks in self._chunks.items() if chunks
        }
        self._chunks.clear()
        self._id_chunks.clear()
        self._item_chunks.clear()

    def feature(self, feature: Feature, impressions: Ints) -> pa.Array:
        """The values of one feature, of these impressions."""
        which = self.request[impressions] if feature.scope == "context" else impressions
        return self._columns[feature.name].take(pa.array(which))
