"""Records in Avro's binary encoding, read with the schema that they were written with.

Source: https://avro.apache.org/docs/1.12.0/specification/
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import fastavro
from fastavro.read import SchemaResolutionError

from schemas.bad_record import BadRecord
from schemas.formats.declared import FormatError, first_line

#: Reads the one datum in the bytes. Raises BadRecord: `broken_record`, `wrong_schema`, `too_deep`.
Reader = Callable[[bytes], Any]

_NAMED = frozenset(["record", "error", "enum", "fixed"])
_PRIMITIVE = frozenset(["null", "boolean", "int", "long", "float", "double", "bytes", "string"])


def parsed(text: str, references: Iterable[str] = ()) -> Any:
    """A schema for `reader`, from its JSON text. `references`: the texts of schemas whose names it
    uses, each after those that it uses itself.

    Logical types are dropped, so that times stay numbers of their own unit; decimals stay. Raises
    FormatError for what is no schema, and for a schema that damaged bytes could make endless: a
    recursive one, and one with an array whose items take no bytes.
    """
    named: dict[str, Any] = {}
    schema: Any = None
    try:
        for part in (*references, text):
            schema = fastavro.parse_schema(json.loads(part), named_schemas=named, _write_hint=False)
    except fastavro.schema.UnknownType as error:
        raise FormatError(f"this Avro schema names an unknown type: {error.name}") from None
    except (ValueError, TypeError, KeyError, fastavro.schema.SchemaParseException) as error:
        raise FormatError(f"this is no Avro schema: {first_line(error)}") from None
    for each in named.values():
        _check(each, named, ())
    _check(schema, named, ())
    return _without_logical_types(schema, named)


def reader(writer: Any, as_schema: Any = None) -> Reader:
    """Reads data of the `writer` schema as `as_schema` says (None: as it was written)."""

    def read(payload: bytes) -> Any:
        data = io.BytesIO(payload)
        try:
            value = fastavro.schemaless_reader(data, writer, as_schema)
        except SchemaResolutionError as error:
            raise BadRecord(
                "wrong_schema", f"it cannot be read as the reader's schema: {first_line(error)}"
            ) from None
        except Exception as error:
            # damaged bytes end in whatever the reader stumbles over: there is no list of it
            raise BadRecord(
                "broken_record",
                f"it is no datum of its Avro schema: {type(error).__name__}: {first_line(error)}",
            ) from None
        left = len(payload) - data.tell()
        if left:
            raise BadRecord(
                "broken_record",
                f"{left} bytes are left after the Avro datum; was it written with another schema?",
            )
        return value

    return read


def _check(schema: Any, named: Mapping[str, Any], within: tuple[str, ...]) -> None:
    """Raises FormatError for a schema that has no bound, see `parsed`."""
    if isinstance(schema, list):
        for branch in schema:
            _check(branch, named, within)
        return
    if isinstance(schema, str):
        if schema in _PRIMITIVE:
            return
        schema = named[schema]
    kind = schema["type"]
    if not isinstance(kind, str):
        _check(kind, named, within)
    elif kind == "array":
        if _may_be_empty(schema["items"], named):
            raise FormatError(
                "the Avro schema has an array whose items take no bytes, so that a few damaged"
                " bytes could ask for any number of them"
            )
        _check(schema["items"], named, within)
    elif kind == "map":
        _check(schema["values"], named, within)
    elif kind in ("record", "error"):
        name = schema["name"]
        if name in within:
            raise FormatError(
                f"the Avro schema is recursive: {name} is within itself; such schemas are not read,"
                " for a damaged record could be nested without end"
            )
        for field in schema["fields"]:
            _check(field["type"], named, (*within, name))
    elif kind not in _NAMED and kind not in _PRIMITIVE:
        _check(kind, named, within)


def _may_be_empty(schema: Any, named: Mapping[str, Any], within: tuple[str, ...] = ()) -> bool:
    """Whether a datum may take no byte. A union never does: its branch is written."""
    if isinstance(schema, list):
        return False
    if isinstance(schema, str):
        if schema in _PRIMITIVE:
            return schema == "null"
        schema = named[schema]
    kind = schema["type"]
    if kind in ("record", "error"):
        name = schema["name"]
        return name in within or all(
            _may_be_empty(field["type"], named, (*within, name)) for field in schema["fields"]
        )
    if kind == "fixed":
        return bool(schema["size"] == 0)
    return kind not in ("array", "map", "enum") and _may_be_empty(kind, named, within)


def _without_logical_types(schema: Any, named: Mapping[str, Any]) -> Any:
    """The schema with names resolved where they are first used, and times as plain numbers."""
    seen: set[str] = set()

    def plain(part: Any) -> Any:
        if isinstance(part, list):
            return [plain(branch) for branch in part]
        if isinstance(part, str):
            return part if part in _PRIMITIVE or part in seen else plain(named[part])
        name = part.get("name")
        if name is not None:
            if name in seen:
                return name
            seen.add(name)
        kept = dict(part)
        if part.get("logicalType") != "decimal":
            kept.pop("logicalType", None)
        kept.pop("__fastavro_parsed__", None)
        kept.pop("__named_schemas", None)
        for key in ("items", "values"):
            if key in kept:
                kept[key] = plain(kept[key])
        if "fields" in kept:
            kept["fields"] = [{**field, "type": plain(field["type"])} for field in kept["fields"]]
        if not isinstance(kept["type"], str) or kept["type"] in named:
            kept["type"] = plain(kept["type"])
        return kept

    return fastavro.parse_schema(plain(schema))
