"""The bytes in keyed state (docs/architecture.md, "State of a key"). Pure.

A key has one value per request, and a log: a list of entries that is appended to. A log entry is
either a held action (`ActionEvent`) or a `LogChange`.

A request carries its version, and the deadlines that held when it was accepted, so windows and
lateness can change over a savepoint. Its body carries the names of its features. Fields are only
added, at the end and with a default, so a release can read what older releases wrote. Version 2
added the rows before the deadline. Version 3 added `LogChange`; before that, a log had only
actions.

A tombstone begins with its end: a msgpack integer of 8 bytes, the time at which it is forgotten.
The operator (`udfs/jvm/KeyedBatches.java`) reads it, and removes a tombstone that is all of its key
without asking Python, which is what becomes of most. Tombstones of earlier releases have no end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import msgspec

from schemas.events import ActionEvent, RequestBody
from schemas.labels import Value

VERSION = 3


class StoredRequest(msgspec.Struct, array_like=True):
    """A request in state: pending with its body, or (`settled`) the tombstone that it left.

    `items` and `user_id`: in state they are filled for a tombstone only; a pending request has them
    in its body. `body` is None in memory when it has to be read from state again; it is never
    stored as None. `used`: identities of the actions that it joined or named. More may be in
    the log.

    For requests that get rows before their deadline: `emit_at` is when the first may be written.
    `versions` counts the versions of each impression, and is empty before that time. `last` has the
    labels of the last rows, by kind and position, where they differ from those of no action.
    """

    version: int
    request_id: str
    event_time: int
    deadline: int
    forget_time: int
    items: list[str]
    settled: bool
    body: bytes | None
    user_id: str = ""
    used: list[int] = []
    emit_at: int | None = None
    versions: list[int] = []
    last: dict[str, dict[int, Value]] = {}

    @property
    def rank(self) -> tuple[int, str]:
        """Rule 2: of two requests that match an action, the one with the greater rank takes it."""
        return (self.event_time, self.request_id)

    def settle(self, used: list[int], *, keep_features: bool) -> None:
        """It becomes a tombstone, which has used the actions of these identities."""
        if not keep_features:
            self.body = b""
        self.settled, self.used = True, used
        self.emit_at, self.versions, self.last = None, [], {}


class LogChange(msgspec.Struct, array_like=True, tag="c", frozen=True):
    """What became of earlier entries, appended so that they need not be rewritten.

    `released`: actions that are not held any more, by their index in the log. `used`: the
    identities of late actions that a tombstone named, by its request id. `forgotten`: request ids
    whose `used` in earlier entries does not count any more (the id may be used again).
    """

    released: list[int]
    used: dict[str, list[int]]
    forgotten: list[str]


LogEntry = ActionEvent | LogChange

#: The head of a msgpack integer of 8 bytes. A packed request begins with the head of an array.
_INT64 = 0xD3
_END = struct.Struct(">Bq")
_pack = msgspec.msgpack.Encoder().encode
_unpack_request = msgspec.msgpack.Decoder(StoredRequest).decode
_unpack_entry = msgspec.msgpack.Decoder(LogEntry).decode
_unpack_body = msgspec.msgpack.Decoder(RequestBody).decode


class StateVersionError(Exception):
    """A newer release wrote this state, so this one cannot know what it means."""


def pack_request(request: StoredRequest) -> bytes:
    """A request as it is stored. Raises ValueError for one whose body is not loaded."""
    if request.body is None:
        raise ValueError(f"the body of request {request.request_id!r} is not loaded")
    if request.settled:
        return _END.pack(_INT64, request.forget_time) + _pack(request)
    return _pack(request)


def unpack_request(blob: bytes) -> StoredRequest:
    """A request that was stored. Raises StateVersionError."""
    request = _unpack_request(blob if blob[0] != _INT64 else memoryview(blob)[_END.size :])
    if request.version > VERSION:
        raise StateVersionError(
            f"state of version {request.version}; this release reads up to {VERSION}"
        )
    return request


def pack_entry(entry: LogEntry) -> bytes:
    """An entry of the log as it is stored."""
    return _pack(entry)


def unpack_log(blobs: Iterable[bytes]) -> list[LogEntry]:
    """The entries of a stored log, in its order."""
    return list(map(_unpack_entry, blobs))


def held_in(log: Iterable[LogEntry]) -> int:
    """How many actions are held by a log, duplicates that were not found yet included."""
    held = 0
    for entry in log:
        held += 1 if isinstance(entry, ActionEvent) else -len(entry.released)
    return held


def unpack_body(body: bytes) -> RequestBody:
    """A request's body, as it was stored."""
    return _unpack_body(body)
