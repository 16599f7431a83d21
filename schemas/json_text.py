"""What can be said of a JSON text before anybody asks what its fields mean.

How deep it is nested, whether an object names a key twice, and why a text is not JSON at all. The
answers depend on the bytes alone: never on how much stack the caller has left, and never on texts
that were seen before.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

#: How deep a record may be nested; the record itself is level 1. Protocol Buffers' limit as well.
#: It is far below the interpreter's recursion limit (1,000), so that this bound decides, and not
#: the stack that happens to be left.
MAX_DEPTH = 100

Result = TypeVar("Result")

_NOT_MARKS = bytes(set(range(256)) - set(b'[]{}"\\'))
_BLANK_COLON = re.compile(rb"[\t\n\r]:")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)


class NotJSON(Exception):  # noqa: N818 - it is an outcome, not a fault of the program
    """The text is not JSON (RFC 8259): `reason` is one of `broken_json`, `not_finite` and
    `invalid_utf8`, as docs/events.md defines them.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def too_deep(raw: bytes, limit: int = MAX_DEPTH) -> bool:
    """Whether more than `limit` arrays and objects are open at some place of the text.

    Brackets inside of strings do not count. The text need not be JSON: what counts then are the
    brackets outside of what looks like a string, from the left.
    """
    if raw.count(b"[") + raw.count(b"{") <= limit:
        return False
    marks = raw.translate(None, _NOT_MARKS)
    # Without escapes, and if every run of quotes is even, all brackets are outside of strings.
    if b"\\" not in marks:
        marks = marks.replace(b'""', b"")
    if b'"' in marks or b"\\" in marks:
        marks = _STRING.sub(b"", raw).translate(None, _NOT_MARKS)
    depth = 0
    for mark in marks:
        if mark in b"[{":
            depth += 1
            if depth > limit:
                return True
        elif mark in b"]}":
            depth -= 1
    return False


def with_stack(function: Callable[[bytes], Result], raw: bytes) -> Result:
    """`function(raw)`, for texts that are not `too_deep`; what it raises is raised here.

    A caller whose own stack is nearly used up gets the same answer as any other: the function then
    runs in a thread, which has a stack of its own.
    """
    try:
        return function(raw)
    except RecursionError:
        pass
    outcome: list[Result] = []
    failure: list[Exception] = []

    def run() -> None:
        try:
            outcome.append(function(raw))
        except Exception as error:  # raised again by the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def blank_before_colon(raw: bytes) -> bool:
    """Whether a blank stands before a colon somewhere. If not, every key is followed by `":`."""
    if b" :" in raw:
        return True
    other_blanks = b"\t" in raw or b"\n" in raw or b"\r" in raw
    return other_blanks and _BLANK_COLON.search(raw) is not None


def key_count(values: Iterable[Any]) -> int:
    """How many different keys the objects in decoded JSON values have, nested ones included."""
    keys = 0
    waiting = [values]
    while waiting:
        inner = waiting.pop()
        if inner.__class__ is dict:
            keys += len(inner)
            inner = inner.values()
        waiting += [v for v in inner if v.__class__ is dict or v.__class__ is list]
    return keys


def parse(raw: bytes) -> tuple[Any, str | None]:
    """The value of a JSON text, and a key that an object of it names twice (None: there is none).

    Numbers are not read: what stands in their place is of no use. Of a key that is named twice the
    last value counts. The text must be UTF-8 and not be `too_deep`. Raises NotJSON.
    """
    return with_stack(_parse, raw)


_check = msgspec.json.Decoder(msgspec.Raw).decode


def _parse(raw: bytes) -> tuple[Any, str | None]:
    twice: list[str] = []
    literals: list[str] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        named = dict(found)
        if len(named) != len(found) and not twice:
            seen: set[str] = set()
            for name, _ in found:
                if name in seen:
                    twice.append(name)
                    break
                seen.add(name)
        return named

    def constant(literal: str) -> float:
        literals.append(literal)
        return math.nan

    decoder = json.JSONDecoder(
        object_pairs_hook=pairs, parse_constant=constant, parse_int=len, parse_float=len
    )
    try:
        value = decoder.decode(raw.decode())
    except ValueError as error:
        raise NotJSON("broken_json", str(error)) from None
    if literals:
        raise NotJSON("not_finite", f"JSON has no {literals[0]}")
    try:
        _check(raw)
    except msgspec.DecodeError:
        # the one thing that the parser above takes and msgspec does not
        raise NotJSON(
            "invalid_utf8", "half of a surrogate pair (\\ud800 to \\udfff), which UTF-8 cannot hold"
        ) from None
    return value, twice[0] if twice else None
