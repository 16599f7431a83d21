"""Decoded values as JSON text. What JSON cannot say is a bad record, not something else."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from schemas.bad_record import BadRecord

#: Decimals as numbers; bytes become base64, as in the JSON form of Protocol Buffers.
_encode = msgspec.json.Encoder(decimal_format="number").encode


def json_text(value: Any) -> bytes:
    """JSON text (UTF-8) of dicts, lists and scalars.

    Raises BadRecord: `not_finite` for NaN and infinities, `invalid_utf8` for half of a surrogate
    pair, `broken_record` for keys that are no text.
    """
    try:
        text = _encode(value)
    except UnicodeEncodeError as error:
        raise BadRecord("invalid_utf8", str(error)) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRecord("broken_record", str(error)) from None
    # the encoder writes null for what is not finite; few records have a null at all
    if b"null" in text and (path := not_finite(value)) is not None:
        raise BadRecord("not_finite", f"{path} is NaN or infinite")
    return text


def not_finite(value: Any) -> str | None:
    """The path of the first number that is not finite; None if all are."""
    waiting = [("$", value)]
    while waiting:
        path, inner = waiting.pop()
        if isinstance(inner, float) and not math.isfinite(inner):
            return path
        if isinstance(inner, dict):
            waiting += [(f"{path}.{name}", found) for name, found in reversed(inner.items())]
        elif isinstance(inner, list):
            waiting += [(f"{path}[{i}]", inner[i]) for i in reversed(range(len(inner)))]
    return None
