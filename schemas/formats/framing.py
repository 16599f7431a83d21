"""Confluent's wire format: which schema of a registry a record was written with.

A zero byte and the schema's id in four bytes (big-endian), or a one and its GUID in 16. This stands
before the record, or in the header `__value_schema_id`; if there is such a header, the record has
nothing before it. Of Protocol Buffers, the path of the message within its file follows: a count and
as many indexes, as zigzag varints, where a lone zero is short for the path [0].

Source: https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/#wire-format
and `confluent_kafka.schema_registry` (`SchemaId`, `dual_schema_id_deserializer`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from schemas.bad_record import BadRecord

#: The header of a record that names the schema of its value.
HEADER = "__value_schema_id"
#: What a registry calls a schema: its id, or its GUID in 36 characters.
SchemaName = int | str

_ID_BYTES, _GUID_BYTES = 4, 16
#: Far deeper than messages are nested in practice. A longer path is damage.
_MAX_PATH = 100


class Framed(bytes):
    """The value of a record that has the header: its bytes, with those of the header beside them.

    Whoever reads records makes this of them, so that only who asks for the schema has to know.
    """

    header: bytes

    @staticmethod
    def of(value: bytes, header: bytes | None) -> bytes:
        """The value; `header`: the last header of that name, None if the record has none."""
        if header is None:
            return value
        framed = Framed(value)
        framed.header = header
        return framed

    @staticmethod
    def among(value: bytes, headers: Iterable[tuple[str, bytes | None]]) -> bytes:
        """The same with all the headers of a record, in their order."""
        return Framed.of(value, dict(headers).get(HEADER))


def split(raw: bytes) -> tuple[SchemaName, bytes]:
    """The schema, and the record without what named it. Raises BadRecord: `no_schema_id`."""
    if isinstance(raw, Framed):
        return _schema_name(raw.header, f"the header {HEADER}")[0], raw
    return _schema_name(raw, "the record")


def split_message(raw: bytes) -> tuple[SchemaName, tuple[int, ...], bytes]:
    """The same of Protocol Buffers, with where the message stands in its file between them."""
    if isinstance(raw, Framed):
        schema, rest = _schema_name(raw.header, f"the header {HEADER}")
        return schema, message_path(rest)[0], raw
    schema, rest = _schema_name(raw, "the record")
    return (schema, *message_path(rest))


def _schema_name(data: bytes, where: str) -> tuple[SchemaName, bytes]:
    """The schema that bytes begin with, and the bytes after it."""
    if data[:1] == b"\0" and len(data) > _ID_BYTES:
        return int.from_bytes(data[1 : 1 + _ID_BYTES], "big"), data[1 + _ID_BYTES :]
    if data[:1] == b"\x01" and len(data) > _GUID_BYTES:
        return str(uuid.UUID(bytes=data[1 : 1 + _GUID_BYTES])), data[1 + _GUID_BYTES :]
    start = data[: 1 + _ID_BYTES].hex(" ") or "nothing"
    raise BadRecord(
        "no_schema_id",
        f"{where} begins with {start}, not with a zero byte and the four bytes of a schema id, or a"
        " one and the 16 bytes of its GUID; take `registry` out of the format if records name no"
        " schema",
    )


def message_path(payload: bytes) -> tuple[tuple[int, ...], bytes]:
    """Where the message stands in its file, from the outside in, and the bytes of the message.

    Raises BadRecord: `no_schema_id`.
    """
    count, at = _zigzag(payload, 0)
    if count == 0:
        return (0,), payload[at:]
    if not 0 < count <= _MAX_PATH:
        raise BadRecord("no_schema_id", f"a path of {count} message indexes after the schema id")
    path: list[int] = []
    for _ in range(count):
        index, at = _zigzag(payload, at)
        path.append(index)
    return tuple(path), payload[at:]


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where the next one begins."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
    raise BadRecord("no_schema_id", "the message indexes after the schema id are cut short")
