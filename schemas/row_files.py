"""Avro containers and Parquet files, as the lines of JSON that say the same.

What becomes of which type stands in docs/formats.md. The lines, and so all offsets, are the same
whenever a file is read.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import msgspec

from schemas.formats.declared import first_line
from schemas.formats.json_form import not_finite

#: The first bytes of each kind of file.
AVRO, PARQUET = b"Obj\x01", b"PAR1"

_BATCH_ROWS = 1024
_BUFFER_BYTES = 1 << 16
_encode = msgspec.json.Encoder(decimal_format="number").encode


_Source = BinaryIO | io.RawIOBase


class RowFileError(Exception):
    """A file of rows cannot be read: it is damaged, or its schema is refused. One line."""


def open_avro(file: _Source) -> BinaryIO:
    """The lines of an Avro container. Reading raises RowFileError."""
    return io.BufferedReader(_Lines(file, _avro_rows), _BUFFER_BYTES)


def open_parquet(file: _Source) -> BinaryIO:
    """The lines of a Parquet file. Reading raises RowFileError."""
    return io.BufferedReader(_Lines(file, _parquet_rows), _BUFFER_BYTES)


class _Lines(io.RawIOBase):
    """The lines of a file of rows as one text. Going back reads the file from its start again."""

    def __init__(self, file: _Source, rows: Callable[[_Source], Iterator[Any]]) -> None:
        self._file = file
        self._rows = rows
        self._begin()

    def _begin(self) -> None:
        self._file.seek(0)
        self._left = map(_line, self._rows(self._file))
        self._line = memoryview(b"")
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._at
        elif whence != io.SEEK_SET:
            raise io.UnsupportedOperation("the end is not known")
        if offset < self._at:
            self._begin()
        while self._at < offset and self._fill():
            self._take(offset - self._at)
        return self._at

    def readinto(self, buffer: Any) -> int:
        if not self._fill():
            return 0
        taken = self._take(len(buffer))
        buffer[: len(taken)] = taken
        return len(taken)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _fill(self) -> bool:
        """Whether there is something left."""
        if not self._line:
            self._line = memoryview(next(self._left, b""))
        return bool(self._line)

    def _take(self, most: int) -> memoryview:
        taken, self._line = self._line[:most], self._line[most:]
        self._at += len(taken)
        return taken


def _line(row: Any) -> bytes:
    try:
        text = _encode(row)
        if b"null" in text and not_finite(row) is not None:
            # the encoder writes null for it; the record is to be rejected, not to lose a value
            text = json.dumps(msgspec.to_builtins(row)).encode()
    except (TypeError, ValueError) as error:
        raise RowFileError(f"a row cannot be written as JSON: {error}") from None
    return text + b"\n"


def _avro_rows(file: _Source) -> Iterator[Any]:
    import fastavro

    from schemas.formats import avro
    from schemas.formats.declared import FormatError

    try:
        blocks = fastavro.block_reader(file)
        schema = avro.parsed(json.dumps(blocks.writer_schema))
        for block in blocks:
            data = block.bytes_
            for _ in range(block.num_records):
                yield fastavro.schemaless_reader(data, schema, None)
    except FormatError as error:
        raise RowFileError(str(error)) from None
    except (RowFileError, OSError):
        raise
    except Exception as error:
        # damaged bytes end in whatever the reader stumbles over: there is no list of it
        raise RowFileError(_said(error)) from None


def _parquet_rows(file: _Source) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from schemas import arrow_values

    try:
        whole = pq.ParquetFile(file)
        schema = pa.schema([field.with_type(_plain(field.type)) for field in whole.schema_arrow])
        for batch in whole.iter_batches(_BATCH_ROWS):
            yield from arrow_values.rows(pa.Table.from_batches([batch]).cast(schema))
    except (pa.ArrowException, NotImplementedError, UnicodeDecodeError) as error:
        raise RowFileError(_said(error)) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise RowFileError(_said(error)) from None  # Arrow's word for damage


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
