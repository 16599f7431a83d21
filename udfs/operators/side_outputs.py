"""Rejected records and late actions leave the operators beside their main output.

`udfs.core.side_rows` says what columns these tables have. The Flink type of a side output follows
from it (here), and so do the columns of the sink (jobs/pipeline/sinks.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyflink.common import Types
from pyflink.datastream import OutputTag

from schemas import samples
from udfs.core import side_rows
from udfs.core.side_rows import SideTable


@dataclass(frozen=True)
class SideOutput:
    """A side output with the columns of a table."""

    table: SideTable

    def tag(self) -> OutputTag:
        """Made anew wherever it is needed: it holds a gateway object, which cannot be pickled."""
        types = [_flink_type(field.type) for field in self.table.schema]
        types += [Types.STRING()] * len(samples.PARTITIONS)
        return OutputTag(self.table.name, Types.ROW_NAMED(list(self.table.columns), types))

    @property
    def letters(self) -> str:
        """The types of the columns, as `udfs/jvm/Reports.java` reads them."""
        types = [field.type for field in self.table.schema]
        return "".join(_letter(arrow) for arrow in types) + "s" * len(samples.PARTITIONS)


LATE_ACTIONS = SideOutput(side_rows.LATE_ACTIONS)
REJECTED = SideOutput(side_rows.REJECTED)


def _letter(arrow: pa.DataType) -> str:
    if pa.types.is_integer(arrow):
        return "l"
    if pa.types.is_binary(arrow):
        return "b"
    return "d" if pa.types.is_floating(arrow) else "s"


def _flink_type(arrow: pa.DataType) -> Any:
    """Python's numbers come as Java's widest."""
    types = {
        "l": Types.LONG(),
        "d": Types.DOUBLE(),
        "s": Types.STRING(),
        "b": Types.PRIMITIVE_ARRAY(Types.BYTE()),
    }
    return types[_letter(arrow)]
