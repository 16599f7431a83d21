"""A JSON record as Python has it, for those who look for its fields by themselves.

The same texts are refused as by the decoders of `schemas.decoding`, for the same reasons (steps 4
to 7 of docs/events.md). A number that no float64 can hold is no fault as long as nobody asks for
it: it stays as it stands in the text (`msgspec.Raw`).
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from schemas.decoding import BadRecord
from schemas.json_text import (
    MAX_DEPTH,
    NotJSON,
    blank_before_colon,
    key_count,
    parse,
    too_deep,
    with_stack,
)

_decode = msgspec.json.Decoder().decode
#: Integers of more digits are in the bounds of no field, and Python reads no number of very many.
_MAX_DIGITS = 400


def read(raw: bytes) -> dict[str, Any]:
    """The record that the text is. It must be UTF-8 (`Bounds.check_bytes`). Raises BadRecord."""
    if too_deep(raw):
        raise BadRecord("too_deep", f"nested more than {MAX_DEPTH} levels deep")
    try:
        record = with_stack(_decode, raw)
    except (msgspec.MsgspecError, ValueError):
        return _read_slowly(raw)
    if record.__class__ is not dict:
        raise BadRecord("wrong_type", "the record is no object")
    # Each key is followed by a colon, so there are at least as many colons as keys. If there are no
    # more of them than different keys, no key is named twice.
    keys = key_count((record,))
    if raw.count(b":") != keys and (raw.count(b'":') != keys or blank_before_colon(raw)):
        _, twice = parse(raw)
        if twice is not None:
            raise BadRecord("duplicate_key", f"an object names the key {twice!r} twice")
    return record


def _read_slowly(raw: bytes) -> dict[str, Any]:
    """The same for a text that is broken, or has a number that is out of every range."""
    try:
        _, twice = parse(raw)
    except NotJSON as error:
        raise BadRecord(error.reason, error.message) from None
    if twice is not None:
        raise BadRecord("duplicate_key", f"an object names the key {twice!r} twice")
    decoder = json.JSONDecoder(parse_float=_float, parse_int=_int)
    record = with_stack(lambda text: decoder.decode(text.decode()), raw)
    if not isinstance(record, dict):
        raise BadRecord("wrong_type", "the record is no object")
    return record


def _float(text: str) -> float | msgspec.Raw:
    number = float(text)
    return msgspec.Raw(text.encode()) if math.isinf(number) else number


def _int(text: str) -> int | msgspec.Raw:
    return int(text) if len(text) < _MAX_DIGITS else msgspec.Raw(text.encode())
