"""Opens the join's Parquet files; the errors name the file and say what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configuration.stores import Folder, StorePath

_ADVICE = "Train with the features and actions that the file was written with"


class ReadError(Exception):
    """A file of the output cannot be read. The message names it, and says what to do."""


def open_parquet(
    path: Folder, name: str, size: int | None = None, **options: Any
) -> pq.ParquetFile:
    """An open file. `options` are those of `pyarrow.parquet.ParquetFile`.

    `name`: what errors call the file. `size`: its bytes when it was found (None: not known). Raises
    ReadError if it is missing, is not a Parquet file, or has another size now.
    """
    try:
        now = path.stat().st_size
        if size is not None and now != size:
            raise ReadError(
                f"{name}: has {now:,} bytes, and had {size:,} when it was found. A committed file "
                "never changes: put it back as it was, or train from a new checkpoint directory"
            )
        source = pa.PythonFile(path.open(), "r") if isinstance(path, StorePath) else path
        return pq.ParquetFile(source, **options)
    except FileNotFoundError:
        raise ReadError(
            f"{name}: is not there any more, and was not read to its end. Put it back, or train "
            "from a new checkpoint directory"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise ReadError(
            f"{name}: cannot be read as Parquet ({first_line(error)}). The join names a file so "
            "when it is complete, so it was damaged or copied in part: restore it, or move it away"
        ) from None


def check_names(found: pa.Schema, expected: Iterable[str], name: str) -> None:
    """Raises ReadError for a column that is missing."""
    for column in expected:
        if found.get_field_index(column) < 0:
            raise ReadError(f"{name}: has no column {column!r}. {_ADVICE}")


def check_columns(found: pa.Schema, expected: pa.Schema, name: str) -> None:
    """Raises ReadError for a column that is missing or of another type; others may be there."""
    check_names(found, expected.names, name)
    for field in expected:
        there = found.field(field.name).type
        if not _same(there, field.type):
            raise ReadError(
                f"{name}: column {field.name!r} is {there}, and configured as {field.type}. "
                f"{_ADVICE}"
            )


def _same(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether the types are equal, apart from the name and nullability of list elements."""
    if pa.types.is_list(found) and pa.types.is_list(expected):
        return bool(found.value_type == expected.value_type)
    return bool(found == expected)


def first_line(error: Exception) -> str:
    """Of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
