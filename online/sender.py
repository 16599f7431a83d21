"""Sends records to Kafka from a thread of its own, so that whoever logs never waits for a broker.

    logging threads --add--> queue --sending thread--> KafkaProducer --> brokers
                               ^                            |
                               +---- again after a second --+-- delivered, or given up: forgotten

A record takes its bytes of the buffer from `add` until the brokers have it, or it is given up. So
the buffer bounds the memory, wherever a record is. The producer is idempotent (acks=all), and sends
again by itself; what it gives up nevertheless, as when brokers forget it, is handed to it again.
Then a record may be there twice, which the join sees and removes (docs/join-semantics.md 4 and 6).
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from online.events import Record

log = logging.getLogger(__name__)

#: Of a record, beside its key and its value; roughly what Python needs for it.
_OVERHEAD_BYTES = 500
#: Before a record is tried again, and between two messages of one kind.
_RETRY_S, _QUIET_S = 1.0, 10.0

#: Called with a record that was given up and with the reason, in a thread of the log.
OnLost = Callable[[Record, Exception], None]


class Producer(Protocol):
    """What is used of `kafka.KafkaProducer`."""

    def send(self, topic: str, value: bytes, key: bytes, *, timestamp_ms: int) -> Any:
        """A future with `add_callback` and `add_errback`."""

    def close(self, timeout: float | None = None) -> None:
        """Sends what it has for so many seconds, then fails the rest."""


@dataclass(frozen=True)
class Counts:
    """What became of the events so far.

    accepted = delivered + lost + pending. `dropped`: not accepted, because the buffer was full.
    `lost`: accepted, and given up, because the brokers refused them or did not answer in time.
    `invalid`: not accepted, by reason.
    """

    accepted: int
    delivered: int
    dropped: int
    lost: int
    pending: int
    pending_bytes: int
    invalid: Mapping[str, int]


@dataclass
class _Open:
    """A record that was accepted. Times are of the monotonic clock: until when it is tried, and
    when it is to be tried again. `given_up`: somebody is about to tell that it is lost.
    """

    record: Record
    until: float
    due: float = 0.0
    given_up: bool = False


class Sender:
    """Sends the records of one topic.

    Args:
        connect: makes the producer. It is called in the sending thread, again and again until it
            succeeds, so an application starts without a broker.
        topic: where the records go.
        buffer_bytes: how much may wait.
        max_wait_s: for how long `add` waits for room in a full buffer.
        give_up_s: seconds after which a record is given up that the brokers did not take.
        on_lost: see `OnLost`.
    """

    def __init__(
        self,
        connect: Callable[[], Producer],
        topic: str,
        *,
        buffer_bytes: int,
        max_wait_s: float,
        give_up_s: float,
        on_lost: OnLost | None = None,
    ) -> None:
        self._connect, self._topic = connect, topic
        self._buffer_bytes, self._max_wait_s = buffer_bytes, max_wait_s
        self._give_up_s, self._on_lost = give_up_s, on_lost
        self._changed = threading.Condition()
        #: To be sent, and to be sent again; both are open, too.
        self._queue: deque[_Open] = deque()
        self._again: deque[_Open] = deque()
        #: Accepted, and neither delivered nor given up; by identity.
        self._open: dict[int, _Open] = {}
        self._pending_bytes = 0
        self._accepted = self._delivered = self._dropped = self._lost = 0
        self._invalid: Counter[str] = Counter()
        #: The producer that gave something up last.
        self._failed: Producer | None = None
        self._closing_at: float | None = None
        self._told: dict[str, float] = {}
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name=f"log {topic}", daemon=True)
        self._thread.start()
        # a daemon thread ends with the interpreter; before that it is given time
        atexit.register(self.close)

    def add(self, record: Record) -> bool:
        """Whether it was accepted. Waits for at most `max_wait_s` when the buffer is full.

        Raises RuntimeError after `close`, and in a process that was forked after this was made.
        """
        if os.getpid() != self._process:
            raise RuntimeError("this log was made before the process forked; make it after that")
        size = _size(record)
        with self._changed:
            if self._max_wait_s > 0 and not self._has_room(size):
                self._changed.wait_for(
                    lambda: self._closing_at is not None or self._has_room(size),
                    min(self._max_wait_s, threading.TIMEOUT_MAX),
                )
            if self._closing_at is not None:
                raise RuntimeError("this log is closed")
            if fits := self._has_room(size):
                self._accepted += 1
                self._pending_bytes += size
                open_ = _Open(record, time.monotonic() + self._give_up_s)
                self._open[id(open_)] = open_
                self._queue.append(open_)
                self._changed.notify_all()
            else:
                self._dropped += 1
        if not fits:
            self._tell("dropped", "%s: the buffer is full, events are dropped", self._topic)
        return fits

    def count_invalid(self, reason: str) -> None:
        """Counts an event that was refused before it came here."""
        with self._changed:
            self._invalid[reason] += 1

    def counts(self) -> Counts:
        """What became of the events so far."""
        with self._changed:
            return Counts(
                self._accepted,
                self._delivered,
                self._dropped,
                self._lost,
                len(self._open),
                self._pending_bytes,
                dict(self._invalid),
            )

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Whether all that was accepted is delivered or given up, after so many seconds at most."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout_s)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Sends what is there, for so many seconds at most, and gives the rest up.

        Returns whether all that was ever accepted was delivered. Calling it again does no harm.
        """
        atexit.unregister(self.close)
        if os.getpid() != self._process:
            return False
        with self._changed:
            if self._closing_at is None:
                self._closing_at = time.monotonic() + timeout_s
            self._changed.notify_all()
        self._thread.join()
        if self._lost:
            log.error("%s: %s events were given up", self._topic, f"{self._lost:,}")
        return not self._lost

    # -- the sending thread ------------------------------------------------------------------------

    def _run(self) -> None:
        producer: Producer | None = None
        while (open_ := self._next()) is not None:
            record = open_.record
            if producer is not None and producer is self._failed:
                # it may never work again (a fatal error), and a new one does no harm
                self._shut(producer)
                producer = None
            try:
                if producer is None:
                    producer = self._connect()
                    # A producer has a handler of its own, which must not run before this one.
                    atexit.unregister(self.close)
                    atexit.register(self.close)
                future = producer.send(
                    self._topic, record.value, record.key, timestamp_ms=record.time
                )
            except Exception as error:
                self._fail(open_, error)
                if producer is None:
                    self._pause()
                elif not _is_timeout(error):
                    self._failed = producer
            else:
                future.add_callback(self._deliver, open_)
                future.add_errback(self._refuse, producer, open_)
        if producer is not None:
            self._shut(producer)
        for open_ in list(self._open.values()):
            self._give_up(open_, TimeoutError("the log was closed before it was delivered"))

    def _shut(self, producer: Producer) -> None:
        try:
            producer.close(timeout=0)
        except Exception:
            # kafka-python raises for what it cannot flush in time, and leaves its thread running
            producer._sender.force_close()  # type: ignore[attr-defined]

    def _next(self) -> _Open | None:
        """What to send next. None: this is closing, and nothing is open or the time is over."""
        with self._changed:
            while True:
                now = time.monotonic()
                closing = self._closing_at
                if closing is not None and (now >= closing or not self._open):
                    return None
                if self._again and now >= self._again[0].due:
                    return self._again.popleft()
                if self._queue:
                    return self._queue.popleft()
                moments = [open_.due for open_ in (*self._again,)[:1]]
                moments += [] if closing is None else [closing]
                self._changed.wait(min(moments) - now if moments else None)

    def _pause(self) -> None:
        """Brokers that refuse a login are not asked again at once, for each record that waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing_at is not None, _RETRY_S)

    # -- called by the producer's thread, too ------------------------------------------------------

    def _deliver(self, open_: _Open, _: object = None) -> None:
        with self._changed:
            self._delivered += self._forget(open_)

    def _refuse(self, producer: Producer, open_: _Open, error: Exception) -> None:
        self._failed = producer
        self._fail(open_, error)

    def _fail(self, open_: _Open, error: Exception) -> None:
        """The record is tried again, if that may help and there is time."""
        now = time.monotonic()
        if not _may_pass(error) or now + _RETRY_S > open_.until:
            self._give_up(open_, error)
            return
        with self._changed:
            if id(open_) not in self._open:
                return
            open_.due = now + _RETRY_S
            self._again.append(open_)
            self._changed.notify_all()
        self._tell("again", "%s: cannot send now: %s", self._topic, error)

    def _give_up(self, open_: _Open, error: Exception) -> None:
        with self._changed:
            if open_.given_up or id(open_) not in self._open:
                return
            open_.given_up = True
        self._tell("lost", "%s: an event was given up: %s", self._topic, error)
        try:
            # before it counts as settled: who waits for that finds it told
            if self._on_lost is not None:
                self._on_lost(open_.record, error)
        except Exception:
            log.exception("%s: on_lost failed", self._topic)
        finally:
            with self._changed:
                self._lost += self._forget(open_)

    def _tell(self, kind: str, text: str, *arguments: object) -> None:
        """Logs it, but not each time. Without the lock: whoever takes the line may be slow."""
        now = time.monotonic()
        if now - self._told.get(kind, -_QUIET_S) >= _QUIET_S:
            self._told[kind] = now
            log.warning(text, *arguments)

    # -- with the lock held ------------------------------------------------------------------------

    def _forget(self, open_: _Open) -> bool:
        """Whether it was open until now."""
        if self._open.pop(id(open_), None) is None:
            return False
        self._pending_bytes -= _size(open_.record)
        self._changed.notify_all()
        return True

    def _has_room(self, size: int) -> bool:
        # one that is larger than the buffer goes alone
        return not self._open or self._pending_bytes + size <= self._buffer_bytes


def _size(record: Record) -> int:
    return len(record.key) + len(record.value) + _OVERHEAD_BYTES


def _is_timeout(error: Exception) -> bool:
    """Whether the producer waits for its brokers, and keeps what it has."""
    from kafka.errors import KafkaTimeoutError

    return isinstance(error, KafkaTimeoutError)


def _may_pass(error: Exception) -> bool:
    """Whether the brokers may take the same record later."""
    from kafka import errors

    # A record that is refused takes those of its batch with it, which are told InvalidRecordError.
    for_good = (
        errors.MessageSizeTooLargeError,
        errors.RecordListTooLargeError,
        errors.InvalidTimestampError,
        errors.PolicyViolationError,
    )
    return isinstance(error, errors.KafkaError | OSError) and not isinstance(error, for_good)
