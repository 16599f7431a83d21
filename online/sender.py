"""Sends records to Kafka from a thread of its own, so that whoever logs never waits for a broker.

    logging threads --add--> queue --sending thread--> KafkaProducer --> brokers
                               ^                            |
                               +---- again after a second --+-- delivered, or given up: forgotten

A record takes its bytes of the buffer from `add` until the brokers have it, or it is given up. So
the buffer bounds the memory, wherever a record is. The producer sends again by itself (acks=all);
what it gives up nevertheless is handed to it again. Then a record may be there twice, which the
join sees and removes (docs/join-semantics.md 4 and 6).
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from online.events import Record

log = logging.getLogger(__name__)

#: What a record takes in memory beside its value, here and in the producer, which copies it.
_OVERHEAD_BYTES = 1_600
#: Before a record is tried again, and between two messages of one kind.
_RETRY_S, _QUIET_S = 1.0, 10.0
#: After the time to close is over: for what the sending thread does then. It may be in the client,
#: which comes back from a connection attempt when it likes.
_END_S = 1.0
#: A record that has waited for so long is a sign that the brokers are not there; and for so long a
#: failure is held against them.
_SLOW_S, _RECENT_S = 3.0, 10.0

#: Longer than anybody waits, and short enough for what waits.
_FOR_EVER_S = 1e8

#: Called with a record that was given up and with the reason, in the sending thread: it must not
#: wait for this log.
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
    """A record that was accepted. Times are of the monotonic clock: since when it is here, until
    when it is tried, and when it is to be tried again.
    """

    record: Record
    since: float
    until: float
    delivered: Future[None] | None = None
    due: float = 0.0

    def end(self, error: Exception | None) -> None:
        """Tells who waits for it. Without the lock: a callback of the future may take long."""
        if self.delivered is None or not self.delivered.set_running_or_notify_cancel():
            return
        if error is None:
            self.delivered.set_result(None)
        else:
            self.delivered.set_exception(error)


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
        #: To be sent, to be sent again, and to be given up; all are open, too.
        self._queue: deque[_Open] = deque()
        self._again: deque[_Open] = deque()
        self._over: deque[tuple[_Open, Exception]] = deque()
        #: Accepted, and neither delivered nor given up; by identity.
        self._open: dict[int, _Open] = {}
        self._pending_bytes = 0
        self._accepted = self._delivered = self._dropped = self._lost = 0
        self._invalid: Counter[str] = Counter()
        #: Whether somebody is being told that a record is lost.
        self._telling = False
        self._closing_at: float | None = None
        self._told: dict[str, float] = {}
        #: The last failure since something was delivered, and when it was.
        self._failure: tuple[float, str] | None = None
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name=f"log {topic}", daemon=True)
        self._thread.start()
        # a daemon thread ends with the interpreter; before that it is given time
        atexit.register(self.close)

    def add(self, record: Record, delivered: Future[None] | None = None) -> bool:
        """Whether it was accepted. Waits for at most `max_wait_s` when the buffer is full.

        `delivered` is done when the brokers have the record, or has the error when it is given up.

        Raises RuntimeError after `close`, and in a process that was forked after this was made.
        """
        if os.getpid() != self._process:
            raise RuntimeError("this log was made before the process forked; make it after that")
        size = _size(record)
        with self._changed:
            if self._max_wait_s > 0 and not self._has_room(size):
                self._changed.wait_for(
                    lambda: self._closing_at is not None or self._has_room(size),
                    min(self._max_wait_s, _FOR_EVER_S),
                )
            if self._closing_at is not None:
                raise RuntimeError("this log is closed")
            if fits := self._has_room(size):
                self._accepted += 1
                self._pending_bytes += size
                now = time.monotonic()
                open_ = _Open(record, now, now + self._give_up_s, delivered)
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

    def trouble(self) -> str | None:
        """Why the brokers may not take what is added now; None: nothing says so.

        A failure is forgotten after 10 s, because only another record can show that it is over.
        """
        now = time.monotonic()
        with self._changed:
            oldest = next(iter(self._open.values()), None)
            if oldest is not None and now - oldest.since > _SLOW_S:
                return f"{self._topic}: an event has waited for {now - oldest.since:.0f} s"
            if self._failure is not None and now - self._failure[0] < _RECENT_S:
                return f"{self._topic}: {self._failure[1]}"
        return None

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Whether all that was accepted is delivered or given up, after so many seconds at most."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._open and not self._telling, min(timeout_s, _FOR_EVER_S)
            )

    def close(self, timeout_s: float = 10.0) -> bool:
        """Sends what is there, for so many seconds at most, and gives the rest up.

        Returns whether all that was ever accepted was delivered, a second later at most, whatever
        the client of the brokers waits for. Calling it again does no harm.
        """
        atexit.unregister(self.close)
        if os.getpid() != self._process:
            return False
        with self._changed:
            if self._closing_at is None:
                self._closing_at = time.monotonic() + min(timeout_s, _FOR_EVER_S)
            self._changed.notify_all()
            end = self._closing_at + _END_S
        self._thread.join(max(0.0, end - time.monotonic()))
        # the thread has done that, if it came back from the client
        self._give_up_all()
        if self._lost:
            log.error("%s: %s events were given up", self._topic, f"{self._lost:,}")
        return self._delivered == self._accepted

    # -- the sending thread ------------------------------------------------------------------------

    def _run(self) -> None:
        producer: Producer | None = None
        while (taken := self._next()) is not None:
            open_, over = taken
            if over is not None:
                self._give_up(open_, over)
                continue
            record = open_.record
            try:
                if producer is None:
                    producer = self._connect()
                    if self._closing_at is None:
                        # A producer has a handler of its own, which must not run before this one.
                        atexit.unregister(self.close)
                        atexit.register(self.close)
                    if id(open_) not in self._open:
                        continue  # it was given up meanwhile
                future = producer.send(
                    self._topic, record.value, record.key, timestamp_ms=record.time
                )
            except Exception as error:
                self._fail(open_, error)
                if producer is None:
                    self._pause()
            else:
                future.add_callback(self._deliver, open_)
                future.add_errback(self._fail, open_)
        if producer is not None:
            _shut(producer)
        self._give_up_all()

    def _give_up_all(self) -> None:
        """What is still open when this is closed."""
        with self._changed:
            still_open = list(self._open.values())
        for open_ in still_open:
            self._give_up(open_, TimeoutError("the log was closed before it was delivered"))

    def _next(self) -> tuple[_Open, Exception | None] | None:
        """What to send next, or to give up, and why. None: this is closing, and nothing is open or
        the time is over.
        """
        with self._changed:
            while True:
                now = time.monotonic()
                closing = self._closing_at
                if self._over:
                    return self._over.popleft()
                if closing is not None and (now >= closing or not self._open):
                    return None
                for waiting in (self._queue, self._again):
                    if waiting and now > waiting[0].until:
                        return waiting.popleft(), TimeoutError(
                            "the brokers did not take it in time"
                        )
                if self._again and now >= self._again[0].due:
                    return self._again.popleft(), None
                if self._queue:
                    return self._queue.popleft(), None
                moments = [open_.due for open_ in (*self._again,)[:1]]
                moments += [] if closing is None else [closing]
                self._changed.wait(min(moments) - now if moments else None)

    def _pause(self) -> None:
        """Brokers that refuse a login are not asked again at once, for each record that waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing_at is not None, _RETRY_S)

    def _give_up(self, open_: _Open, error: Exception) -> None:
        with self._changed:
            if not self._forget(open_):
                return
            self._lost += 1
            self._telling = True
        try:
            self._tell("lost", "%s: an event was given up: %s", self._topic, error)
            open_.end(error)
            if self._on_lost is not None:
                self._on_lost(open_.record, error)
        except Exception:
            log.exception("%s: on_lost failed", self._topic)
        finally:
            with self._changed:
                self._telling = False
                self._changed.notify_all()

    # -- called by the producer's thread, too ------------------------------------------------------

    def _deliver(self, open_: _Open, _: object = None) -> None:
        with self._changed:
            if not self._forget(open_):
                return
            self._delivered += 1
            self._failure = None
        open_.end(None)

    def _fail(self, open_: _Open, error: Exception) -> None:
        """The record is tried again, if that may help and there is time."""
        now = time.monotonic()
        again = may_pass(error) and now + _RETRY_S <= open_.until
        with self._changed:
            if id(open_) not in self._open:
                return
            if may_pass(error):
                self._failure = now, str(error)
            if again:
                open_.due = now + _RETRY_S
                self._again.append(open_)
            else:
                self._over.append((open_, error))
            self._changed.notify_all()
        if again:
            self._tell("again", "%s: cannot send now: %s", self._topic, error)

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


def _shut(producer: Any) -> None:
    """Ends a producer, whatever it has."""
    try:
        producer.close(timeout=0)
    except Exception:
        # kafka-python raises for what it cannot flush in time, and leaves its thread running
        producer._sender.force_close()


def _size(record: Record) -> int:
    # the producer has a copy of the value
    return len(record.key) + 2 * len(record.value) + _OVERHEAD_BYTES


def may_pass(error: Exception) -> bool:
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
