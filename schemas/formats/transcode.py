"""From the bytes of a record of any format to the JSON text that says the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgspec

from schemas.bad_record import BadRecord
from schemas.decoding import Decoder
from schemas.events import ActionEvent, Origin, RequestEvent
from schemas.formats import avro, compiled, framing, protobuf
from schemas.formats.declared import Avro, Format, FormatError, Json, Protobuf, Registry
from schemas.formats.framing import SchemaName
from schemas.formats.json_form import json_text
from schemas.formats.registry import Registered, RegistryClient

#: Gives the JSON text of a record, and its schema in the registry (None: records name none).
#:
#: Raises BadRecord, and RegistryError when a registry cannot be asked.
Transcoder = Callable[[bytes], tuple[bytes, SchemaName | None]]
_Read = Callable[[bytes], Any]
_Event = TypeVar("_Event")


def transcoder(
    declared: Format, client: Callable[[Registry], RegistryClient] = RegistryClient
) -> Transcoder:
    """For records of a format. Raises FormatError when its schema or registry is of no use."""
    if isinstance(declared, Json):
        return _json(declared, client(declared.registry))
    if isinstance(declared, Avro):
        return _avro(declared, None if declared.registry is None else client(declared.registry))
    return _protobuf(declared, None if declared.registry is None else client(declared.registry))


def _json(declared: Json, client: RegistryClient) -> Transcoder:
    asks = bool(declared.registry.subjects)

    def transcode(raw: bytes) -> tuple[bytes, SchemaName]:
        schema_id, payload = framing.split(raw)
        if asks:
            _of_kind(client.registered(schema_id), "JSON")
        return payload, schema_id

    return transcode


def _avro(declared: Avro, client: RegistryClient | None) -> Transcoder:
    wanted = None if declared.schema is None else avro.parsed(declared.schema)
    if client is None:
        if wanted is None:
            raise FormatError("Avro needs a schema, or a registry that has one")
        read = avro.reader(wanted)
        return lambda raw: (json_text(read(raw)), None)
    readers: dict[SchemaName, _Read] = {}

    def transcode(raw: bytes) -> tuple[bytes, SchemaName]:
        schema_id, payload = framing.split(raw)
        read = readers.get(schema_id)
        if read is None:
            found = _of_kind(client.registered(schema_id), "AVRO")
            written = _usable(lambda: avro.parsed(found.text, found.references.values()))
            read = readers[schema_id] = avro.reader(written, wanted)
        return _read_as(schema_id, read, payload), schema_id

    return transcode


def _protobuf(declared: Protobuf, client: RegistryClient | None) -> Transcoder:
    own: _Read | None = None
    if declared.descriptors is not None:
        if declared.message is None:
            raise FormatError("a descriptor set needs the name of the message: set `message`")
        pool = protobuf.pool_of(declared.descriptors)
        own = protobuf.reader(protobuf.message_named(pool, declared.message))
    if client is None:
        if own is None:
            raise FormatError("Protocol Buffers need a descriptor set, or a registry")
        read = own
        return lambda raw: (json_text(read(raw)), None)
    assert declared.registry is not None
    asks = own is None or bool(declared.registry.subjects)
    files: dict[SchemaName, Any] = {}
    readers: dict[tuple[SchemaName, tuple[int, ...]], _Read] = {}

    def compile_schema(found: Registered) -> Any:
        pool = protobuf.pool_of(compiled.descriptor_set(found.text, found.references))
        return pool.FindFileByName(compiled.MAIN)

    def transcode(raw: bytes) -> tuple[bytes, SchemaName]:
        schema_id, path, payload = framing.split_message(raw)
        read = readers.get((schema_id, path))
        if read is None:
            found = _of_kind(client.registered(schema_id), "PROTOBUF") if asks else None
            if own is not None:
                read = own
            else:
                assert found is not None
                if schema_id not in files:
                    files[schema_id] = _usable(lambda: compile_schema(found))
                message = protobuf.message_at(files[schema_id], path)
                read = _usable(lambda: protobuf.reader(message))
            readers[schema_id, path] = read
        return _read_as(schema_id, read, payload), schema_id

    return transcode


def _read_as(schema_id: SchemaName, read: _Read, payload: bytes) -> bytes:
    try:
        return json_text(read(payload))
    except BadRecord as bad:
        raise _naming(schema_id, bad) from None


def _naming(schema_id: SchemaName, bad: BadRecord) -> BadRecord:
    """The same, with the schema in its message."""
    return BadRecord(bad.reason, f"schema {schema_id}: {bad.message}", bad.event_time)


def _of_kind(found: Registered, kind: str) -> Registered:
    if found.kind != kind:
        raise BadRecord("wrong_schema", f"the schema is {found.kind}, and the format says {kind}")
    return found


def _usable(make: Callable[[], Any]) -> Any:
    """What is made of a registered schema. It is the record's fault to have been written so."""
    try:
        return make()
    except FormatError as error:
        raise BadRecord("wrong_schema", str(error)) from None


class Transcoding(Decoder[_Event]):
    """Decodes records of another format with a decoder of JSON, mapped or not.

    The event keeps the bytes of the record. Of a rejected one the message names the schema. The
    decoder of JSON should take texts of any size: `max_record_bytes` is for the record.
    """

    def __init__(
        self, transcode: Transcoder, decoder: Decoder[_Event], max_record_bytes: int
    ) -> None:
        self._transcode = transcode
        self._decoder: Any = decoder
        self._max_bytes = max_record_bytes

    @property
    def undeclared(self) -> int:
        """See `RequestDecoder`."""
        return int(self._decoder.undeclared)

    @property
    def ignored(self) -> int:
        """See `ActionDecoder`."""
        return int(self._decoder.ignored)

    def decode(self, raw: bytes, origin: Origin, record_time: int | None = None) -> _Event:
        """The event. Raises BadRecord, and RegistryError when a registry cannot be asked."""
        if not raw:
            raise BadRecord("empty_record", "the record is empty")
        if len(raw) > self._max_bytes:
            raise BadRecord("too_large", f"{len(raw)} bytes; max_record_bytes is {self._max_bytes}")
        text, schema_id = self._transcode(raw)
        try:
            said = self._decoder.decode(text, origin, record_time)
        except BadRecord as bad:
            if schema_id is None:
                raise
            raise _naming(schema_id, bad) from None
        return cast(_Event, _with_raw(said, bytes(raw)))


def _with_raw(said: Any, raw: bytes) -> Any:
    """The same events with the bytes of their record."""
    if isinstance(said, list):
        return [_with_raw(event, raw) for event in said]
    if isinstance(said, RequestEvent | ActionEvent):
        return msgspec.structs.replace(said, raw=raw)
    return said
