"""Rows of the join as a table with the columns of `samples/`, as a reader of the files has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from schemas.actions import ActionKind
from schemas.features import FeatureSchema
from schemas.labels import without_action
from schemas.sample_id import sample_ids
from schemas.samples import samples as sample_layout
from udfs.core.state_codec import unpack_body
from udfs.core.wire import SampleRows


class RowTables:
    """Makes tables of rows. `columns`: those that are wanted; None: all."""

    def __init__(
        self,
        schema: FeatureSchema,
        kinds: Sequence[ActionKind],
        columns: Sequence[str] | None = None,
    ) -> None:
        layout = sample_layout(schema, kinds)
        self.schema = pa.schema([f for f in layout if columns is None or f.name in columns])
        self._context = [f.name for f in schema.scoped("context")]
        self._items = [f.name for f in schema.scoped("item")]
        self._kinds = kinds
        self._wanted = set(self.schema.names)

    def of(self, rows: Iterable[SampleRows]) -> pa.Table:
        """The table, a row a sample, in the order of `rows` and of positions."""
        values: dict[str, list[Any]] = {name: [] for name in self.schema.names}
        for each in rows:
            self._add(each, values)
        arrays = [pa.array(values[field.name], field.type) for field in self.schema]
        return pa.table(arrays, schema=self.schema)

    def _add(self, rows: SampleRows, values: dict[str, list[Any]]) -> None:
        body = unpack_body(rows.body)
        positions = range(len(body.items)) if rows.positions is None else rows.positions
        n = len(positions)

        def constant(name: str, value: Any) -> None:
            if name in self._wanted:
                values[name] += [value] * n

        def listed(name: str, of_all: Sequence[Any] | None, otherwise: Any) -> None:
            if of_all is None:
                constant(name, otherwise)
            elif name in self._wanted:
                values[name] += [of_all[p] for p in positions]

        if "sample_id" in self._wanted:
            listed("sample_id", sample_ids(rows.request_id, body.items), None)
        constant("request_id", rows.request_id)
        constant("user_id", body.user_id)
        listed("item_id", body.items, None)
        listed("position", range(len(body.items)), None)
        constant("event_time", rows.event_time)
        for name, value in zip(self._context, body.context, strict=True):
            constant(name, value)
        for name, column in zip(self._items, body.columns, strict=True):
            listed(name, column, None)
        for kind, labels in zip(self._kinds, rows.kinds, strict=True):
            listed(f"label_{kind.name}", labels.values, without_action(kind))
            listed(f"delay_{kind.name}_ms", labels.delays_ms, None)
            constant(f"mature_{kind.name}", labels.mature)
        constant("observed_ms", rows.observed_ms)
        listed("exposed", rows.exposed, None)
        listed("sampling_rate", rows.rates, 1.0)
        listed("revision", rows.versions, 0)
        constant("kind", rows.kind)
