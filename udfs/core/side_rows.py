"""Rows beside the samples: rejected records and late actions, as lists of values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import pyarrow as pa

from schemas import samples
from schemas.sample_id import sample_id
from udfs.core.join_core import LateAction
from udfs.core.partitions import partition
from udfs.core.sample_rows import SampleWriter


@dataclass(frozen=True)
class SideTable:
    """A table with the columns of `schema`, then `dt` and `hr`."""

    name: str
    schema: pa.Schema

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""
        return (*self.schema.names, *samples.PARTITIONS)

    def row(self, values: Mapping[str, Any], time_ms: int | None) -> list[Any]:
        """`values` by column, in the order of `columns` and in the partition of `time_ms`. Raises
        ValueError when they are not exactly the columns of the table.
        """
        if values.keys() != set(self.schema.names):
            raise ValueError(f"{self.name}: {sorted(values)} are not the columns of the table")
        return [*(values[name] for name in self.schema.names), *partition(time_ms)]


LATE_ACTIONS = SideTable("late-actions", samples.LATE_ACTIONS)
REJECTED = SideTable("rejected", samples.REJECTED)


def late_row(late: LateAction, writer: SampleWriter) -> list[Any]:
    """The row of `LATE_ACTIONS` for a late action, with its sample's features if they are there."""
    action, request, position = late.action, late.request, late.position
    features = None
    if late.body:
        context, items = writer.feature_values(late.body)
        values = context | {name: column[position] for name, column in items.items()}
        features = msgspec.json.encode(values).decode()
    values = {
        "sample_id": sample_id(request.request_id, action.item_id, position),
        "request_id": request.request_id,
        "user_id": request.user_id,
        "item_id": action.item_id,
        "position": position,
        "request_time": request.event_time,
        "event_id": action.event_id,
        "action": action.action,
        "value": action.value,
        "event_time": action.event_time,
        "delay_ms": action.event_time - request.event_time,
        "reason": late.reason,
        "features": features,
    }
    return LATE_ACTIONS.row(values, request.event_time)
