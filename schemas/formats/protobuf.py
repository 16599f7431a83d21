"""Records that are messages of Protocol Buffers.

A message becomes a dict by the names of its fields, as they stand in the `.proto` file. A field
with presence is left out when it is not set, and so is an empty string of a field without presence,
which proto3 cannot tell from one that nobody set; a number or boolean of such a field is its
default. Timestamps and durations are text, wrappers are their value, enums are names, maps are
objects: as in the JSON form of Protocol Buffers, but for 64-bit integers, which stay numbers.

Source: https://protobuf.dev/programming-guides/json/ and
https://protobuf.dev/programming-guides/field_presence/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from schemas.bad_record import BadRecord
from schemas.formats.declared import FormatError, first_line

#: Makes a dict of the bytes of a message. Raises BadRecord: `broken_record`.
Reader = Callable[[bytes], dict[str, Any]]

#: Messages that are the value within.
WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Bool", "Int32", "UInt32", "Int64", "UInt64", "Float", "Double", "String", "Bytes")
)
#: Messages whose JSON form is not an object of their fields.
_OF_THEIR_OWN_FORM = frozenset(
    f"google.protobuf.{name}"
    for name in ("Timestamp", "Duration", "FieldMask", "Struct", "Value", "ListValue")
)

_Convert = Callable[[Any], Any]


def pool_of(descriptors: bytes) -> descriptor_pool.DescriptorPool:
    """The types of a serialised `FileDescriptorSet`, which must hold all imports of its files.

    Raises FormatError.
    """
    files = descriptor_pb2.FileDescriptorSet()
    try:
        files.ParseFromString(descriptors)
    except DecodeError:
        raise FormatError(
            "this is no descriptor set; make one with"
            " `protoc --include_imports --descriptor_set_out=FILE`"
        ) from None
    pool = descriptor_pool.DescriptorPool()
    waiting = {file.name: file for file in files.file}

    def add(name: str) -> None:
        file = waiting.pop(name, None)
        if file is None:
            return
        for imported in file.dependency:
            add(imported)
        try:
            pool.Add(file)
        except TypeError as error:
            raise FormatError(
                f"{name} cannot be used: {first_line(error)}; was the descriptor set made with"
                " --include_imports?"
            ) from None

    for name in list(waiting):
        add(name)
    return pool


def message_named(pool: descriptor_pool.DescriptorPool, name: str) -> Descriptor:
    """The type of that full name, such as `shop.v1.Impressions`. Raises FormatError."""
    try:
        return pool.FindMessageTypeByName(name)
    except KeyError:
        raise FormatError(f"the descriptor set has no message {name!r}") from None


def message_at(file: Any, path: Iterable[int]) -> Descriptor:
    """The message at a path of indexes within a file's descriptor. Raises BadRecord:
    `wrong_schema`.
    """
    inside = list(file.message_types_by_name.values())
    found: Descriptor | None = None
    for index in path:
        if not 0 <= index < len(inside):
            raise BadRecord(
                "wrong_schema", f"{file.name} has no message at the place {list(path)} of a record"
            )
        found = inside[index]
        inside = list(found.nested_types)
    assert found is not None, "a path has at least one index"
    return found


def reader(descriptor: Descriptor) -> Reader:
    """Reads messages of one type. Raises FormatError for a type that has no form here."""
    message = message_factory.GetMessageClass(descriptor)
    convert = _message(descriptor, {})

    def read(payload: bytes) -> dict[str, Any]:
        try:
            found = message.FromString(payload)
        except DecodeError as error:
            raise BadRecord(
                "broken_record", f"it is no message {descriptor.full_name}: {first_line(error)}"
            ) from None
        try:
            value = convert(found)
        except (ValueError, TypeError, json_format.Error) as error:
            raise BadRecord(
                "broken_record", f"{descriptor.full_name} holds what has no form: {error}"
            ) from None
        assert isinstance(value, dict)
        return value

    return read


def _message(descriptor: Descriptor, known: dict[str, _Convert]) -> _Convert:
    """Makes a dict of a message. `known`: the types that are made already, or are being made."""
    made = known.get(descriptor.full_name)
    if made is not None:
        return made
    always: list[tuple[str, _Convert | None]] = []
    present: list[tuple[str, _Convert | None]] = []
    repeated: list[tuple[str, _Convert]] = []

    def convert(message: Any) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for name, scalar in always:
            found = getattr(message, name)
            if found != "":
                value[name] = found if scalar is None else scalar(found)
        for name, inner in present:
            if message.HasField(name):
                found = getattr(message, name)
                value[name] = found if inner is None else inner(found)
        for name, several in repeated:
            value[name] = several(getattr(message, name))
        return value

    known[descriptor.full_name] = convert
    for field in descriptor.fields:
        inner = _single(field, known)
        if field.label == FieldDescriptor.LABEL_REPEATED:
            repeated.append((field.name, _several(field, inner, known)))
        elif field.has_presence:
            present.append((field.name, inner))
        else:
            always.append((field.name, inner))
    return convert


def _several(
    field: FieldDescriptor, single: _Convert | None, known: dict[str, _Convert]
) -> _Convert:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        of_value = _single(entry.fields_by_name["value"], known)
        if of_value is None:
            return lambda found: {_key(key): value for key, value in found.items()}
        return lambda found: {_key(key): of_value(value) for key, value in found.items()}
    if single is None:
        return list
    return lambda found: [single(value) for value in found]


def _key(key: Any) -> str:
    """A map's key as JSON has it."""
    if isinstance(key, bool):
        return "true" if key else "false"
    return str(key)


def _single(field: FieldDescriptor, known: dict[str, _Convert]) -> _Convert | None:
    """What makes JSON's form of one value; None: it is that already."""
    if field.enum_type is not None:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return lambda number: names.get(number, number)
    kind = field.message_type
    if kind is None or kind.GetOptions().map_entry:
        return None
    if kind.full_name in WRAPPERS:
        return lambda wrapper: wrapper.value
    if kind.full_name == "google.protobuf.Any":
        raise FormatError(f"{field.full_name} is an Any, which says nothing of its own type")
    if kind.full_name in _OF_THEIR_OWN_FORM:
        as_json: _Convert = json_format.MessageToDict
        return as_json
    return _message(kind, known)
