"""What leaves the functions beside their main output: rejected records and late actions.

`schemas.samples` says what columns these tables have. Everything else follows from it: the Flink
type of the side output (here) and the columns of the sink (jobs/pipeline/sinks.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
from pyflink.common import Row, Types
from pyflink.datastream import OutputTag

from schemas import samples
from udfs.core.partitions import partition


@dataclass(frozen=True)
class SideOutput:
    """A side output with the columns of a table, then `dt` and `hr`."""

    name: str
    schema: pa.Schema

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return (*self.schema.names, *samples.PARTITIONS)

    def tag(self) -> OutputTag:
        """Made anew wherever it is needed: it holds a gateway object, which cannot be pickled."""
        types = [_flink_type(field.type) for field in self.schema]
        types += [Types.STRING()] * len(samples.PARTITIONS)
        return OutputTag(self.name, Types.ROW_NAMED(list(self.columns), types))

    def row(self, values: Mapping[str, Any], time_ms: int | None) -> Row:
        """`values` by column, in the partition of `time_ms`. Raises ValueError when they are not
        exactly the columns of the table. Bytes travel as latin-1 text (see `sinks`).
        """
        if values.keys() != set(self.schema.names):
            raise ValueError(f"{self.name}: {sorted(values)} are not the columns of the table")
        fields = (values[name] for name in self.schema.names)
        return Row(
            *(f.decode("latin-1") if isinstance(f, bytes) else f for f in fields),
            *partition(time_ms),
        )


LATE_ACTIONS = SideOutput("late-actions", samples.LATE_ACTIONS)
REJECTED = SideOutput("rejected", samples.REJECTED)


def _flink_type(arrow: pa.DataType) -> Any:
    """Python's numbers come as Java's widest, and bytes as text: arrays of bytes are slow."""
    if pa.types.is_integer(arrow):
        return Types.LONG()
    return Types.DOUBLE() if pa.types.is_floating(arrow) else Types.STRING()
