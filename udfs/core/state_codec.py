"""What lies in keyed state, as bytes (docs/architecture.md). Pure.

Every value begins with its version. A request carries the deadlines that held when it was
accepted, so windows and lateness can change over a savepoint; its body carries the names of its
features. Fields are only ever added, at the end, with a default, so that a release
reads what older ones wrote. Version 2 added what is known of rows before the deadline.
"""

from __future__ import annotations

import msgspec

from schemas.events import ActionEvent, RequestBody
from udfs.core.labels import Value

VERSION = 2


class StoredRequest(msgspec.Struct, array_like=True):
    """A request in state: pending with its body, or (`settled`) the tombstone that it left.

    `items` and `user_id` are the tombstone's; those of a pending request are in its body. `used`:
    the identities of the actions that it joined or named. Of a request that gets rows before its
    deadline: `emit_at`, when it may; `versions`, how many versions each impression has had, empty
    before that time; `last`, by kind and position, the labels of their last rows that are not those
    of an impression without actions.
    """

    version: int
    request_id: str
    event_time: int
    deadline: int
    forget_time: int
    items: list[str]
    settled: bool
    body: bytes
    user_id: str = ""
    used: list[int] = []
    emit_at: int | None = None
    versions: list[int] = []
    last: dict[str, dict[int, Value]] = {}


_pack = msgspec.msgpack.Encoder().encode
_unpack_request = msgspec.msgpack.Decoder(StoredRequest).decode
_unpack_action = msgspec.msgpack.Decoder(ActionEvent).decode
_unpack_body = msgspec.msgpack.Decoder(RequestBody).decode


class StateVersionError(Exception):
    """State that a newer release wrote: this one cannot know what it means."""


def pack_request(request: StoredRequest) -> bytes:
    return _pack(request)


def unpack_request(blob: bytes) -> StoredRequest:
    """Raises StateVersionError."""
    request = _unpack_request(blob)
    if request.version > VERSION:
        raise StateVersionError(
            f"state of version {request.version}; this release reads up to {VERSION}"
        )
    return request


def pack_action(action: ActionEvent) -> bytes:
    return _pack(action)


def unpack_action(blob: bytes) -> ActionEvent:
    return _unpack_action(blob)


def unpack_body(body: bytes) -> RequestBody:
    return _unpack_body(body)
