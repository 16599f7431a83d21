"""What the decoders say of records that are archived, in batches. Pure.

This is what `udfs/jvm/ArchiveBatches.java` calls, with bytes in and out. A batch is a list of
`[value or nil, timestamp, schema id or nil]`, the last as a header has it. The reply has a `Read`
for each of them, in their order, and reports.
"""

from __future__ import annotations

import msgspec

from schemas.decoding import BadRecord
from schemas.events import ActionEvent, Origin, Stream, unpack_front
from schemas.formats.declared import RegistryError
from schemas.formats.framing import Framed
from schemas.mapping.decoding import Skipped
from udfs.core.batch_reply import PackedReports, Reports
from udfs.core.decode_batches import REASONS, action_decoder, request_decoder
from udfs.core.decode_settings import DecodeSettings

#: Event time (epoch ms), request id, user id, item ids, why the join would reject the record, and
#: that in words. A good record has no reason; a bad one has a reason and nothing else, and so has
#: one that could not be read (`UNREAD`).
Read = tuple[
    "int | None", "str | None", "str | None", "list[str] | None", "str | None", "str | None"
]

#: The reason of a record whose schema is in a registry that could not be asked. It is kept all the
#: same, since it may be read later. The join knows no such reason: it waits for the registry.
UNREAD = "registry_unavailable"

#: A decoder notes where a record was read, and the archive has that already.
_NOWHERE = Origin("", None, 0)
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[tuple[bytes | None, int, bytes | None]]).decode


def counters(stream: Stream) -> tuple[str, ...]:
    """All counters of a stream, in the form of `batch_reply.Reports.counts`."""
    return (
        f"{stream}_archived",
        *(f"unusable/{stream}/{why}" for why in (*REASONS[stream], UNREAD)),
    )


class ReadRecords:
    """Reads one stream with the decoders that the join has, by the same settings."""

    def __init__(self, settings: DecodeSettings, stream: Stream) -> None:
        self._settings = settings
        self._stream = stream

    def open(self) -> None:
        """Begins with nothing counted."""
        self._requests = request_decoder(self._settings)
        self._actions = action_decoder(self._settings)
        self._reports = Reports()
        self._unread, self._warn_at = 0, 1
        self._read = self._request if self._stream == "features" else self._action

    def run(self, batch: bytes) -> bytes:
        """What is said of each record."""
        counts, stream = self._reports.counts, self._stream
        said: list[Read] = []
        for value, time, schema_id in _unpack(batch):
            try:
                said.append(self._read(Framed.of(value or b"", schema_id), time))
            except BadRecord as bad:
                counts[f"unusable/{stream}/{bad.reason}"] += 1
                said.append((None, None, None, None, bad.reason, bad.message))
            except RegistryError as error:
                counts[f"unusable/{stream}/{UNREAD}"] += 1
                said.append((None, None, None, None, UNREAD, str(error)))
                self._warn(str(error))
        counts[f"{stream}_archived"] += len(said)
        reports: PackedReports = self._reports.taken()
        return _pack((said, reports))

    def _warn(self, why: str) -> None:
        """At the first record that could not be read, the tenth, the hundredth, and so on."""
        self._unread += 1
        if self._unread >= self._warn_at:
            self._warn_at *= 10
            message = f"records kept without their ids ({UNREAD}) by this subtask: {self._unread}"
            self._reports.warnings.append(("archive", f"{message}; {why}"))

    def _request(self, value: bytes, time: int) -> Read:
        request = self._requests.decode(value, _NOWHERE, time)
        if isinstance(request, Skipped):
            return _skipped(request)
        front = unpack_front(request.body)
        return request.event_time, request.request_id, front.user_id, front.items, None, None

    def _action(self, value: bytes, time: int) -> Read:
        said = self._actions.decode(value, _NOWHERE, time)
        if isinstance(said, Skipped):
            return _skipped(said)
        actions = said if isinstance(said, list) else [said]
        good = [action for action in actions if isinstance(action, ActionEvent)]
        first = min(action.event_time for action in actions)
        if not good:
            return first, None, None, None, None, None
        # those of a record are of one request and user, and may be of several items
        items = list(dict.fromkeys(action.item_id for action in good))
        return first, good[0].request_id, good[0].user_id, items, None, None


def _skipped(record: Skipped) -> Read:
    return record.event_time, None, None, None, None, None
