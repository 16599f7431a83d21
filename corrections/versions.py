"""Which rows are versions of one sample, and which of them is the last one."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: What tells samples apart. `sample_id` stands for it in 64 bits only, and the id of a request that
#: was forgotten may be used again.
NAME = ("user_id", "request_id", "event_time", "position")

#: The columns that `latest` needs.
VERSION = (*NAME, "revision")

#: The values of `NAME`.
Name = tuple[Any, ...]


def latest(samples: pa.Table) -> pa.Table:
    """The last revision of each sample, in the order of the table."""
    if not samples.num_rows:
        return samples
    parts = [_codes(samples[column]) for column in NAME]
    order = np.lexsort((_codes(samples["revision"]), *parts))
    same = np.logical_and.reduce([np.diff(part[order]) == 0 for part in parts])
    return samples.take(np.sort(order[np.append(~same, True)]))


def names(samples: pa.Table) -> list[Name]:
    """The name of the sample of each row."""
    return list(zip(*(samples[column].to_pylist() for column in NAME), strict=True))


def named(samples: pa.Table, wanted: Container[Name]) -> pa.Table:
    """The rows of the samples with these names."""
    return samples.filter(pa.array([name in wanted for name in names(samples)], type=pa.bool_()))


def _codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Integers that are equal where the values are equal; integers stay as they are."""
    if not pa.types.is_integer(column.type):
        column = column.combine_chunks().dictionary_encode().indices
    return np.asarray(column.to_numpy(), dtype=np.int64)
