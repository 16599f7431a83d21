"""Confluent's wire format: which schema of a registry a record was written with.

A zero byte, the schema's id in four bytes (big-endian), then the record. Before a record of
Protocol Buffers stands the path of its message within the file: a count and as many indexes, as
zigzag varints, where a lone zero is short for the path [0].

Source: https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/#wire-format
"""

from __future__ import annotations

from schemas.bad_record import BadRecord

_HEADER_BYTES = 5
#: Far deeper than messages are nested in practice. A longer path is damage.
_MAX_PATH = 100


def split(raw: bytes) -> tuple[int, bytes]:
    """The id of the schema, and the bytes after it. Raises BadRecord: `no_schema_id`."""
    if len(raw) < _HEADER_BYTES or raw[0] != 0:
        start = raw[:_HEADER_BYTES].hex(" ")
        raise BadRecord(
            "no_schema_id",
            f"the record begins with {start}, not with a zero byte and the four bytes of a schema"
            " id; take `registry` out of the format if records have no such header",
        )
    return int.from_bytes(raw[1:_HEADER_BYTES], "big"), raw[_HEADER_BYTES:]


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
