"""The truth about the traffic: what every impression led to, given infinite patience."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tools.generate.draw import ActionRow, Block
from tools.generate.model import ACTIONS, Traffic


def impressions_schema() -> pa.Schema:
    """Of truth/impressions.parquet: `label` 0 or 1, `delay` and `value` null without an action."""
    fields = [
        ("request_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("position", pa.int32()),
        ("event_time", pa.int64()),
    ]
    for model in ACTIONS:
        fields += [
            (f"label_{model.kind}", pa.int8()),
            (f"delay_{model.kind}_ms", pa.int64()),
            (f"value_{model.kind}", pa.float64()),
        ]
    return pa.schema(fields)


def actions_schema() -> pa.Schema:
    """Of truth/actions.parquet: `written` is false for those after the end of the log."""
    return pa.schema(
        [
            ("name", pa.string()),
            ("event_id", pa.string()),
            ("action", pa.string()),
            ("request_id", pa.string()),
            ("user_id", pa.string()),
            ("item_id", pa.string()),
            ("position", pa.int32()),
            ("event_time", pa.int64()),
            ("delay_ms", pa.int64()),
            ("value", pa.float64()),
            ("written", pa.bool_()),
        ]
    )


def true_impressions(traffic: Traffic, block: Block, actions: Sequence[ActionRow]) -> pa.Table:
    """What became of every impression, with infinite patience."""
    n, width = block.items.shape
    columns: list[Any] = [
        [block.request_id(i) for i in range(n) for _ in range(width)],
        [f"u{user}" for user in np.repeat(block.users, width).tolist()],
        [f"i{item}" for item in block.items.ravel().tolist()],
        np.tile(np.arange(width, dtype=np.int32), n),
        np.repeat(block.times, width),
    ]
    for kind in range(len(ACTIONS)):
        label = np.zeros(n * width, dtype=np.int8)
        delay: list[int | None] = [None] * (n * width)
        value: list[float | None] = [None] * (n * width)
        for action in actions:
            if action.kind == kind:
                index = action.row * width + action.position
                label[index], delay[index], value[index] = 1, action.delay_ms, action.value
        columns += [label, delay, value]
    schema = impressions_schema()
    arrays = [pa.array(c, type=f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def write_rows(
    writer: pq.ParquetWriter, schema: pa.Schema, rows: Sequence[tuple[Any, ...]]
) -> None:
    """Append rows, whose values are in the order of the schema."""
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, type=f.type) for c, f in zip(columns, schema, strict=True)]
    writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
