"""Records that a schema allows, so that its features are found as in records that were read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from schemas.formats import avro, compiled, protobuf
from schemas.formats.declared import Avro, Format, FormatError, Json, Protobuf, Registry
from schemas.formats.registry import Registered, RegistryClient

#: What stands for a value of each type. Bytes and fixed become base64 (docs/formats.md).
_AVRO: Mapping[str, Any] = {
    "null": None,
    "boolean": True,
    "int": 1,
    "long": 1,
    "float": 0.5,
    "double": 0.5,
    "string": "x",
    "bytes": "eA==",
    "fixed": "eA==",
    "enum": "x",
}
_PROTOBUF: Mapping[int, Any] = {
    FieldDescriptor.CPPTYPE_BOOL: True,
    FieldDescriptor.CPPTYPE_ENUM: "x",
    FieldDescriptor.CPPTYPE_STRING: "x",
    FieldDescriptor.CPPTYPE_FLOAT: 0.5,
    FieldDescriptor.CPPTYPE_DOUBLE: 0.5,
}
#: Messages that are no object in JSON; those of any shape are left out.
_WELL_KNOWN = {
    **{f"google.protobuf.{name}": "x" for name in ("Timestamp", "Duration", "FieldMask")},
    **dict.fromkeys((f"google.protobuf.{n}" for n in ("Struct", "Value", "ListValue")), None),
}


def examples(
    declared: Format, client: Callable[[Registry], RegistryClient] = RegistryClient
) -> list[dict[str, Any]]:
    """Records as JSON has them: together they have a value of every type that each field may have,
    and nothing where it may be absent.

    Of a registry it takes the newest schema of the first subject. Raises FormatError for a format
    that has no schema to look at, and RegistryError.
    """
    if isinstance(declared, Json):
        raise FormatError("a JSON Schema is not looked at; give a sample of records")
    registered = None
    if declared.registry is not None and _needs_registry(declared):
        if not declared.registry.subjects:
            raise FormatError("set registry.subject: of which schema?")
        registered = client(declared.registry).newest(declared.registry.subjects[0])
    if isinstance(declared, Avro):
        return _of_avro(declared, registered)
    return _of_protobuf(declared, registered)


def _needs_registry(declared: Avro | Protobuf) -> bool:
    own = declared.schema if isinstance(declared, Avro) else declared.descriptors
    return own is None


# -- Avro ------------------------------------------------------------------------------------------


def _of_avro(declared: Avro, registered: Registered | None) -> list[dict[str, Any]]:
    if registered is not None:
        schema = avro.parsed(registered.text, registered.references.values())
    else:
        assert declared.schema is not None
        schema = avro.parsed(declared.schema)
    named: dict[str, Any] = {}
    branches = _branches(schema, named)
    made = [_avro_value(schema, named, n) for n in range(branches)]
    records = [record for record in made if isinstance(record, dict)]
    if not records:
        raise FormatError("the Avro schema is no record")
    return records


def _branches(schema: Any, named: dict[str, Any]) -> int:
    """How many branches the widest union has. `named`: filled with what has a name."""
    if isinstance(schema, list):
        return max(len(schema), *(_branches(branch, named) for branch in schema))
    if isinstance(schema, str):
        return 1
    if "name" in schema:
        named[schema["name"]] = schema
    inner = [schema[key] for key in ("items", "values") if key in schema]
    inner += [field["type"] for field in schema.get("fields", ())]
    inner += [] if isinstance(schema["type"], str) else [schema["type"]]
    return max((_branches(part, named) for part in inner), default=1)


def _avro_value(schema: Any, named: Mapping[str, Any], n: int) -> Any:
    """The value for the record number n."""
    if isinstance(schema, list):
        return _avro_value(schema[n % len(schema)], named, n)
    if isinstance(schema, str):
        return _AVRO[schema] if schema in _AVRO else _avro_value(named[schema], named, n)
    kind = schema["type"]
    if schema.get("logicalType") == "decimal":
        return 0.5
    if kind == "record":
        return {f["name"]: _avro_value(f["type"], named, n) for f in schema["fields"]}
    if kind == "array":
        return [_avro_value(schema["items"], named, n)]
    if kind == "map":
        return {}  # nobody knows its keys
    return _AVRO[kind] if kind in _AVRO else _avro_value(kind, named, n)


# -- Protocol Buffers ------------------------------------------------------------------------------


def _of_protobuf(declared: Protobuf, registered: Registered | None) -> list[dict[str, Any]]:
    if registered is not None:
        pool = protobuf.pool_of(compiled.descriptor_set(registered.text, registered.references))
        messages = list(pool.FindFileByName(compiled.MAIN).message_types_by_name.values())
        wanted = declared.message
        found = [m for m in messages if wanted is None or m.full_name == wanted]
        if not found:
            raise FormatError(f"the registered schema has no message {wanted or ''}".rstrip())
        descriptor = found[0]
    else:
        assert declared.descriptors is not None
        assert declared.message is not None
        pool = protobuf.pool_of(declared.descriptors)
        descriptor = protobuf.message_named(pool, declared.message)
    return [_message(descriptor, (), sparse=sparse) for sparse in (False, True)]


def _message(descriptor: Descriptor, within: tuple[str, ...], *, sparse: bool) -> dict[str, Any]:
    """`sparse`: without what may be absent; messages within are there, for nearly all writers set
    them. `within`: the messages around it.
    """
    value: dict[str, Any] = {}
    for field in descriptor.fields:
        repeated = field.label == FieldDescriptor.LABEL_REPEATED
        if sparse and _may_be_absent(field):
            continue
        one = _field(field, (*within, descriptor.full_name), sparse=sparse)
        if one is not None:
            value[field.name] = [one] if repeated and not isinstance(one, _Map) else one
    return value


def _may_be_absent(field: FieldDescriptor) -> bool:
    if field.label == FieldDescriptor.LABEL_REPEATED or not field.has_presence:
        return False
    message = field.message_type
    is_object = message is not None and message.full_name not in {*protobuf.WRAPPERS, *_WELL_KNOWN}
    return field.containing_oneof is not None or not is_object


class _Map(dict[str, Any]):
    """The value of a map: nobody knows its keys."""


def _field(field: FieldDescriptor, within: tuple[str, ...], *, sparse: bool) -> Any:
    kind = field.message_type
    if kind is None:
        return _PROTOBUF.get(field.cpp_type, 1)
    if kind.GetOptions().map_entry:
        return _Map()
    if kind.full_name in _WELL_KNOWN:
        return _WELL_KNOWN[kind.full_name]
    if kind.full_name in protobuf.WRAPPERS:
        return _field(kind.fields_by_name["value"], within, sparse=sparse)
    # a message within itself has no features that could be named
    return None if kind.full_name in within else _message(kind, within, sparse=sparse)
