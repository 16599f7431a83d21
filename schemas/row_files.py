"""Avro containers and Parquet files, as the lines of JSON that say the same.

What becomes of which type stands in docs/formats.md. The place of a line is the number of its row,
so what lies between two places is found without making the lines before it.
"""

from __future__ import annotations

import io
import json
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, BinaryIO

import msgspec

from schemas.formats.declared import first_line
from schemas.formats.json_form import not_finite

#: The first bytes of each kind of file.
AVRO, PARQUET = b"Obj\x01", b"PAR1"

_BATCH_ROWS = 1024
_encode = msgspec.json.Encoder(decimal_format="number").encode


_Source = BinaryIO | io.RawIOBase


class RowFileError(Exception):
    """A file of rows cannot be read: it is damaged, or its schema is refused. One line."""


class RowFile:
    """The lines of a file of rows. Forwards it goes on where it was; it may go back, too.

    All raise RowFileError.
    """

    def __init__(self, file: _Source) -> None:
        self._file = file

    def number(self) -> int:
        """How many rows there are."""
        with _damage_is_named():
            return self._number()

    def lines(self, start: int, end: int) -> Iterator[bytes]:
        """The rows from `start` up to `end`, or as many of them as there are."""
        return map(_line, self._rows(start, end))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _number(self) -> int:
        raise NotImplementedError

    def _rows(self, start: int, end: int) -> Iterator[Any]:
        raise NotImplementedError


def _line(row: Any) -> bytes:
    try:
        text = _encode(row)
        if b"null" in text and not_finite(row) is not None:
            # the encoder writes null for it; the record is to be rejected, not to lose a value
            text = json.dumps(msgspec.to_builtins(row)).encode()
    except (TypeError, ValueError) as error:
        raise RowFileError(f"a row cannot be written as JSON: {error}") from None
    return text


class AvroFile(RowFile):
    """An Avro container: blocks are passed over as a whole."""

    def __init__(self, file: _Source) -> None:
        super().__init__(file)
        self._begin()

    def _number(self) -> int:
        blocks = self._open()
        self._begin()
        return sum(block.num_records for block in blocks)

    def _begin(self) -> None:
        self._blocks: Iterator[Any] | None = None
        self._at = self._left = 0

    def _open(self) -> Iterator[Any]:
        import fastavro

        from schemas.formats import avro

        self._file.seek(0)
        blocks = fastavro.block_reader(self._file)
        self._schema = avro.parsed(json.dumps(blocks.writer_schema))
        self._data: Any = None
        return iter(blocks)

    def _rows(self, start: int, end: int) -> Iterator[Any]:
        import fastavro

        if start < self._at:
            self._begin()
        with _damage_is_named():
            if self._blocks is None:
                self._blocks = self._open()
            while self._at < end:
                if not self._left:
                    block = next(self._blocks, None)
                    if block is None:
                        return
                    self._left, self._data = block.num_records, block.bytes_
                elif self._at + self._left <= start:
                    self._at, self._left = self._at + self._left, 0
                else:
                    row = fastavro.schemaless_reader(self._data, self._schema, None)
                    self._at, self._left = self._at + 1, self._left - 1
                    if self._at > start:
                        yield row


class ParquetFile(RowFile):
    """A Parquet file: row groups are passed over as a whole, and rows without making values."""

    def __init__(self, file: _Source) -> None:
        super().__init__(file)
        self._whole: Any = None

    def _number(self) -> int:
        self._open()
        return self._ends[-1] if self._ends else 0

    def _open(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._whole is None:
            whole = pq.ParquetFile(self._file)
            fields = [field.with_type(_plain(field.type)) for field in whole.schema_arrow]
            self._schema = pa.schema(fields)
            groups = range(whole.num_row_groups)
            self._ends = list(accumulate(whole.metadata.row_group(g).num_rows for g in groups))
            self._whole = whole
            self._begin(0)

    def _begin(self, group: int) -> None:
        """At the first row of a row group."""
        self._at = self._ends[group - 1] if group else 0
        groups = range(group, len(self._ends))
        self._batches = self._whole.iter_batches(_BATCH_ROWS, row_groups=groups)
        self._batch: Any = None

    def _rows(self, start: int, end: int) -> Iterator[Any]:
        import pyarrow as pa

        from schemas import arrow_values

        with _damage_is_named():
            self._open()
            group = bisect_right(self._ends, start)
            if start < self._at or bisect_right(self._ends, self._at) < group < len(self._ends):
                self._begin(group)
            while self._at < end:
                if not self._batch:
                    self._batch = next(self._batches, None)
                    if self._batch is None:
                        return
                count = len(self._batch)
                skipped = min(max(start - self._at, 0), count)
                taken = self._batch.slice(skipped, end - self._at - skipped)
                self._batch = self._batch.slice(skipped + len(taken))
                self._at += skipped + len(taken)
                if taken:
                    yield from arrow_values.rows(pa.Table.from_batches([taken]).cast(self._schema))


@contextmanager
def _damage_is_named() -> Iterator[None]:
    from schemas.formats.declared import FormatError

    try:
        yield
    except FormatError as error:
        raise RowFileError(str(error)) from None
    except RowFileError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # damaged bytes end in whatever the reader stumbles over: there is no list of it
        raise RowFileError(_said(error)) from None


def _plain(kind: Any) -> Any:
    """The type with times as the numbers that are written, and dictionaries as their values."""
    import pyarrow as pa

    types = pa.types
    if types.is_timestamp(kind) or types.is_date64(kind) or types.is_duration(kind):
        return pa.int64()
    if types.is_time64(kind):
        return pa.int64()
    if types.is_date32(kind) or types.is_time32(kind):
        return pa.int32()
    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    if types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    return kind


def _said(error: Exception) -> str:
    name = type(error).__name__
    return f"{name}: {first_line(error)}" if str(error) else name
