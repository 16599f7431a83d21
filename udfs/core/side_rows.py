"""Rows beside the samples: rejected records and late actions, as lists of values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from schemas import samples
from udfs.core.partitions import partition


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
