"""The time that a record states, for what looks at records before a job reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from jobs.pipeline import record_format
from jobs.pipeline.record_format import FormatSection
from schemas.bad_record import BadRecord
from schemas.decoding import readable_time
from schemas.events import STREAMS, Stream
from schemas.formats.declared import RegistryError
from schemas.mapping.decoding import texts_of
from schemas.mapping.plan import Mappings

#: Of the bytes of a record its event time (epoch ms), whatever else it is; None if it has none.
TimeOf = Callable[[bytes], "int | None"]
#: For records that are events already.
PLAIN: Mapping[Stream, TimeOf] = dict.fromkeys(STREAMS, readable_time)


def times_of(mappings: Mappings) -> Mapping[Stream, TimeOf]:
    """By stream. A time that is the record's own timestamp is not stated in the record: None."""
    times: dict[Stream, TimeOf] = dict(PLAIN)
    for stream in STREAMS:
        texts = texts_of(mappings, stream)
        if texts is not None:
            times[stream] = partial(texts.time, record_time=None)
    return times


def transcoded(section: FormatSection, time_of: TimeOf) -> TimeOf:
    """The same of records of another format."""
    transcode = record_format.transcoder(section)

    def time(raw: bytes) -> int | None:
        try:
            text, _ = transcode(raw)
        except (BadRecord, RegistryError):
            return None
        return time_of(text)

    return time
