"""What travels between the operators: decoded requests and actions, and records that were rejected.

They cross the network and lie in state as msgpack arrays, so the order of the fields is a format:
add at the end, with a default. Times are epoch milliseconds, UTC.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Stream = Literal["features", "actions"]
STREAMS: tuple[Stream, ...] = ("features", "actions")


def stream_of(source: str) -> Stream:
    """The stream of a source by its key, `features` or `features.app`."""
    return "features" if source.partition(".")[0] == "features" else "actions"


#: Times that an event may have: from 1971 up to 2100 (not included). What lies outside is mostly
#: no time in milliseconds: seconds of our days would be January or February of 1970, and micro- and
#: nanoseconds far beyond 2100. No sum of a time and the durations of a configuration leaves int64.
EARLIEST_TIME = 31_536_000_000
LATEST_TIME = 4_102_444_800_000


class Origin(msgspec.Struct, array_like=True, frozen=True):
    """Where a record was read: topic, partition and offset; or file, None, and byte offset."""

    name: str
    partition: int | None
    offset: int


class RequestEvent(msgspec.Struct, array_like=True, tag="r", frozen=True):
    """A decoded feature event.

    `body` is a packed `RequestBody`: it is made once, when the record is decoded, and goes through
    the network and into state as it is. `raw` is the record as it was read; it travels as far as
    the join, so that a request that comes too late can still be rejected whole.
    """

    request_id: str
    event_time: int
    body: bytes
    origin: Origin
    raw: bytes


class RequestBody(msgspec.Struct, array_like=True, frozen=True):
    """The part of a request that only matters when its samples are made.

    `context`: one value per context feature. `columns`: one list per item feature, with one value
    for each of `items`. Both in the order of their names, which a body carries along (packed; a
    list of strings each), so that the feature schema may change while requests lie in state.
    """

    user_id: str
    items: list[str]
    context_names: msgspec.Raw
    context: list[Any]
    column_names: msgspec.Raw
    columns: list[list[Any]]


class RequestFront(msgspec.Struct, array_like=True, frozen=True):
    """The front of a `RequestBody`, for those who need no features: they are not unpacked."""

    user_id: str
    items: list[str]
    context_names: msgspec.Raw
    context: msgspec.Raw
    column_names: msgspec.Raw


unpack_front = msgspec.msgpack.Decoder(RequestFront).decode


class ActionEvent(msgspec.Struct, array_like=True, tag="a", frozen=True):
    """A decoded action event."""

    event_id: str | None
    user_id: str
    item_id: str
    request_id: str | None
    action: str
    value: float | None
    event_time: int
    origin: Origin
    raw: bytes


#: What the keys begin with under which `Progress` travels, one for each subtask of the join.
BEACON_KEY = "\x00progress-"


class Progress(msgspec.Struct, array_like=True, tag="p", frozen=True):
    """How far a source has come: a time that it has shown (epoch ms). Sent to every subtask.

    `source`: its key, which is that of its stream where the stream has no other.
    """

    source: str
    time: int


def beacon_head(source: str) -> bytes:
    """A packed `Progress` of a source, up to its time, which is 8 bytes (unsigned, big-endian)."""
    return msgspec.msgpack.encode(Progress(source, 2**63))[:-8]
