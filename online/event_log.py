"""`FeatureLog` and `ActionLog`: how an application logs what the join reads.

Both take a pipeline's file, so the events fit the job by construction: the declared features, the
kinds of action, the topics, the brokers and the properties of Kafka's client all come from there.
docs/online.md says how to use them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from jobs.pipeline import config
from jobs.pipeline.kafka_consumer import client_options
from online.events import ActionEncoder, InvalidEventError, Item, Record, RequestEncoder
from online.sender import Counts, OnLost, Producer, Sender
from schemas.decoding import ActionDecoder, RequestDecoder
from schemas.events import Stream

_Log = TypeVar("_Log", bound="_EventLog")
#: For so long a batch waits for others.
_LINGER_MS = 5
#: For so long the client waits for brokers, first and later. A record that finds none is tried
#: again, and closing takes no longer than that beyond its time.
_CONNECT_MS, _BLOCK_MS = 5_000, 1_000
#: After an outage the client tries to connect this often, as Kafka's Java client does. Its own
#: default lets it wait for half a minute after the brokers are back.
_RECONNECT_MS = 1_000
#: For so long the client tries a record, at least (by its own rules) and at most; then it is handed
#: to it again.
_DELIVERY_S = (31, 120)
#: What a broker may need beyond the record itself: its key and the frame of its batch.
_FRAME_BYTES = 64 << 10


class _EventLog:
    """What both logs have: a topic, a buffer, and counts.

    Args:
        pipeline: the pipeline's file.
        topic: needed only where the source has several topics, or a pattern.
        buffer_bytes: how much may wait for the brokers, in memory.
        max_wait_s: for how long a call may wait when the buffer is full; after that the event is
            dropped and counted. 0: never wait. `float("inf")`: never drop.
        give_up_s: for how long an event is tried to be delivered; half a minute at least.
        on_lost: is called with each event that was accepted and then given up, and with the reason.

    Raises configuration.reading.ConfigError for a file that is wrong, or whose source is not Kafka.
    """

    _stream: Stream

    def __init__(
        self,
        pipeline: Path | str,
        *,
        topic: str | None = None,
        buffer_bytes: int = 64 << 20,
        max_wait_s: float = 0.0,
        give_up_s: float = 3600.0,
        on_lost: OnLost | None = None,
    ) -> None:
        path = Path(pipeline)
        declared = config.load(path)
        key = f"sources.{self._stream}"
        source = getattr(declared.sources, self._stream)
        if not isinstance(source, config.KafkaSource):
            raise config.ConfigError(f"{path}: {key}.type: a log needs a source of type 'kafka'")
        if topic is None and len(source.topics) != 1:
            raise config.ConfigError(
                f"{path}: {key} has not one topic; say which one to write to: topic=…"
            )
        self._prepare(declared, source)
        self._sender = Sender(
            _connecting(source, client_options(self._stream, source), give_up_s),
            topic or source.topics[0],
            buffer_bytes=buffer_bytes,
            max_wait_s=max_wait_s,
            give_up_s=give_up_s,
            on_lost=on_lost,
        )

    def _prepare(self, declared: config.Pipeline, source: config.KafkaSource) -> None:
        """Makes what turns a call into a record."""
        raise NotImplementedError

    @property
    def counts(self) -> Counts:
        """What became of the events so far."""
        return self._sender.counts()

    def trouble(self) -> str | None:
        """Why the brokers may not take what is logged now; None: nothing says so.

        An event has waited for more than 3 s, or one failed in the last 10 s and none was delivered
        since.
        """
        return self._sender.trouble()

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Whether all that was accepted is delivered or given up, after so many seconds at most."""
        return self._sender.flush(timeout_s)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Delivers what is there, for so many seconds at most, and gives the rest up.

        Returns whether nothing was lost. An interpreter that exits does it by itself.
        """
        return self._sender.close(timeout_s)

    def __enter__(self: _Log) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _log(self, record: Callable[[int], Record], delivered: Future[None] | None) -> bool:
        """Sends what `record` makes of the time (epoch ms)."""
        with self._counted():
            made = record(time.time_ns() // 1_000_000)
        return self._sender.add(made, delivered)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Around what may be refused."""
        try:
            yield
        except InvalidEventError as error:
            self._sender.count_invalid(error.reason)
            raise


class FeatureLog(_EventLog):
    """Logs the features of requests, as they were when the items were ranked."""

    _stream: Stream = "features"

    def _prepare(self, declared: config.Pipeline, source: config.KafkaSource) -> None:
        schema, by_user = declared.schema, declared.join.key == "user_id"
        max_future_ms = int(source.max_future)
        decoder = RequestDecoder(
            schema,
            max_record_bytes=source.max_record_bytes,
            max_items=declared.limits.items_per_request,
            max_future_ms=max_future_ms,
        )
        self._encoder = RequestEncoder(decoder, schema, by_user=by_user)
        unbounded = RequestDecoder(schema, max_record_bytes=1 << 62, max_future_ms=max_future_ms)
        self._checker = RequestEncoder(unbounded, schema, by_user=by_user)

    def request(
        self,
        request_id: str,
        user_id: str,
        items: Iterable[Item],
        *,
        context: Mapping[str, Any] | None = None,
        event_time: int | None = None,
        delivered: Future[None] | None = None,
    ) -> bool:
        """Logs one request.

        Args:
            request_id: names the request; actions carry it.
            user_id: whose request it was.
            items: (item id, features by name), in the order shown.
            context: the features of the request as a whole, by name.
            event_time: epoch ms; now when absent.
            delivered: is done when the brokers have the event, or has the error when it is given
                up. Only of an event that is accepted.

        Returns:
            Whether the event was accepted. False: the buffer was full, and the event was counted as
            dropped.

        Raises:
            InvalidEventError: the join would reject it. Nothing is sent, and it is counted.
            RuntimeError: the log is closed, or was made before the process forked.
        """
        return self._log(
            lambda now: self._encoder.record(
                request_id,
                user_id,
                items,
                context or {},
                now if event_time is None else event_time,
                now,
            ),
            delivered,
        )

    def check(
        self,
        request_id: str,
        user_id: str,
        items: Iterable[Item],
        *,
        context: Mapping[str, Any],
        event_time: int,
    ) -> None:
        """Looks at a request with items that will not all be shown, however many there are.

        Raises InvalidEventError for what is wrong with any of them. Logs and counts nothing else.
        """
        now = time.time_ns() // 1_000_000
        with self._counted():
            self._checker.record(request_id, user_id, items, context, event_time, now)


class ActionLog(_EventLog):
    """Logs what users did."""

    _stream: Stream = "actions"

    def _prepare(self, declared: config.Pipeline, source: config.KafkaSource) -> None:
        by_user = declared.join.key == "user_id"
        decoder = ActionDecoder(
            declared.kinds,
            key_is_request_id=not by_user,
            reject_unknown=declared.join.unknown_actions == "reject",
            max_record_bytes=source.max_record_bytes,
            max_future_ms=int(source.max_future),
        )
        self._encoder = ActionEncoder(decoder, by_user=by_user)

    def action(
        self,
        action: str,
        user_id: str,
        item_id: str,
        *,
        request_id: str | None = None,
        value: float | None = None,
        event_id: str | None = None,
        event_time: int | None = None,
        delivered: Future[None] | None = None,
    ) -> bool:
        """Logs one action.

        Args:
            action: its kind, `[actions.<kind>]`.
            user_id: who acted.
            item_id: on what.
            request_id: of the request that showed the item; needed with `join.key = "request_id"`.
            value: a price, a time; needed for the labels `sum`, `max` and `last`.
            event_id: names the action. An action that is logged twice with it counts once.
            event_time: epoch ms; now when absent.
            delivered: as in `FeatureLog.request`.

        Returns and raises: as `FeatureLog.request`.
        """
        fields = {
            "action": action,
            "user_id": user_id,
            "item_id": item_id,
            "request_id": request_id,
            "value": value,
            "event_id": event_id,
        }
        return self._log(
            lambda now: self._encoder.record(
                fields, now if event_time is None else event_time, now
            ),
            delivered,
        )


def _connecting(
    source: config.KafkaSource, options: Mapping[str, Any], give_up_s: float
) -> Callable[[], Producer]:
    wanted = {"reconnect_backoff_max_ms": _RECONNECT_MS, **options}
    wanted.pop("isolation_level", None)

    def connect() -> Producer:
        from kafka import KafkaProducer

        producer: Producer = KafkaProducer(
            bootstrap_servers=source.bootstrap_servers,
            # With idempotence, kafka-python 3.0 fails all records for ever after one that a broker
            # refuses. Without it a record may be there twice, which the join removes anyway; with
            # one request at a time the order in a partition is kept.
            enable_idempotence=False,
            max_in_flight_requests_per_connection=1,
            acks="all",
            linger_ms=_LINGER_MS,
            max_block_ms=_BLOCK_MS,
            delivery_timeout_ms=1_000 * min(max(give_up_s, _DELIVERY_S[0]), _DELIVERY_S[1]),
            bootstrap_timeout_ms=_CONNECT_MS,
            max_request_size=source.max_record_bytes + _FRAME_BYTES,
            allow_auto_create_topics=False,
            **wanted,
        )
        return producer

    return connect
