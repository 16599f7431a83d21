"""What a record says, whatever its format and shape: all its events, read for the audit.

What is applied of the job is the mapping itself, and what makes JSON of another format: the
libraries of the formats are trusted. Whether the bytes are JSON, and whether what the mapping made
of them are good events, is decided by the audit's own decoder.
"""

from __future__ import annotations

from jobs.pipeline import record_format
from jobs.pipeline.config import Pipeline
from schemas.bad_record import BadRecord
from schemas.events import STREAMS, Stream
from schemas.mapping.decoding import Skipped, Texts, texts_of
from tools.audit.decoding import DecodedAction, DecodedRequest, Decoder

#: The events of a record; or that it is skipped; or the reason why it is bad.
Said = list["DecodedRequest | DecodedAction"] | Skipped | str


class Decoders:
    """Reads the records of both streams, mapped or not. `max_items`: see `Decoder`."""

    def __init__(self, pipeline: Pipeline, max_items: int | None = None) -> None:
        self._decoder = Decoder(pipeline, max_items)
        # a record of ours may be longer than theirs
        self._of_texts = Decoder(pipeline, max_items, any_length=True)
        sources = {"features": pipeline.sources.features, "actions": pipeline.sources.actions}
        self._transcode = {
            stream: record_format.transcoder(source.format)
            for stream, source in sources.items()
            if source.format is not None
        }
        self._most = {stream: source.max_record_bytes for stream, source in sources.items()}
        mappings, schema = pipeline.mappings, pipeline.schema
        self._texts: dict[Stream, Texts | None] = {
            stream: texts_of(mappings, stream, schema) for stream in STREAMS
        }

    def read(self, stream: Stream, raw: bytes, record_time: int | None) -> Said:
        """What a record says. `record_time`: Kafka's (epoch ms).

        Raises RegistryError when a schema registry cannot be asked.
        """
        decoder = self._decoder
        transcode = self._transcode.get(stream)
        if transcode is not None:
            if not raw:
                return "empty_record"
            if len(raw) > self._most[stream]:
                return "too_large"
            try:
                raw, _ = transcode(raw)
            except BadRecord as bad:
                return bad.reason
            decoder = self._of_texts
        texts = self._texts[stream]
        if texts is None:
            event = decoder.decode(stream, raw, record_time)
            return event if isinstance(event, str) else [event]
        fault = decoder.text_fault(stream, raw)
        if fault is not None:
            return fault
        said = texts.of_or_reason(raw, record_time)
        if isinstance(said, str):
            return said
        if isinstance(said, Skipped):
            time = said.event_time
            ahead = time is not None and self._decoder.is_ahead(stream, time, record_time)
            return Skipped(None) if ahead else said
        events: list[DecodedRequest | DecodedAction] = []
        for text in said:
            event = self._of_texts.decode(stream, text, record_time)
            if isinstance(event, str):
                return event
            events.append(event)
        return events
