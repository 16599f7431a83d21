"""The buffer is bounded, a call waits no longer than it may, and every event is counted."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import errors
from kafka.future import Future

from online import sender as module
from online.events import Record
from online.sender import Sender
from services.waiting import wait_until

RECORD = Record(b"key", b"x" * 1_000, 1_700_000_000_000)
SIZE = len(RECORD.key) + 2 * len(RECORD.value) + 1_600


class FakeKafka:
    """Takes records and answers when it is told to; `refuse` raises instead of taking them."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Future]] = []
        self.topics: set[str] = set()
        self.times: set[int] = set()
        self.refuse: Exception | None = None
        self.answers = False
        self.closed = self.forced = False

    def send(self, topic: str, value: bytes, key: bytes, *, timestamp_ms: int) -> Future:
        if self.refuse is not None:
            raise self.refuse
        self.topics.add(topic)
        self.times.add(timestamp_ms)
        future = Future()
        self.sent.append((value, future))
        if self.answers:
            future.success(None)
        return future

    def close(self, timeout: float | None = None) -> None:
        self.closed = True
        waiting = [future for _, future in self.sent if not future.is_done]
        if waiting:
            # as kafka-python 3.0.12 does; its thread then goes on until it is stopped
            raise errors.KafkaTimeoutError("not flushed")

    @property
    def _sender(self) -> FakeKafka:
        return self

    def force_close(self) -> None:
        self.forced = True
        for _, future in self.sent:
            if not future.is_done:
                future.failure(errors.KafkaError("closed"))


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.02)


Make = Callable[..., Sender]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Sender] = []

    def sender(connect: Any, records: float = 3, wait: float = 0.0, **options: Any) -> Sender:
        made.append(
            Sender(
                connect if callable(connect) else lambda: connect,
                "topic",
                buffer_bytes=int(records * SIZE),
                max_wait_s=wait,
                **{"give_up_s": 3600.0} | options,
            )
        )
        return made[-1]

    yield sender
    for one in made:
        one.close(0.0)


def _wait_for(condition: Callable[[], bool], what: str = "it") -> None:
    wait_until(condition, 30.0, what, every_s=0.005)


def test_what_was_delivered_frees_the_buffer(make: Make) -> None:
    kafka = FakeKafka()
    sender = make(kafka)
    assert [sender.add(RECORD) for _ in range(5)] == [True, True, True, False, False]
    assert (sender.counts().accepted, sender.counts().dropped) == (3, 2)
    assert sender.counts().pending_bytes == 3 * SIZE
    _wait_for(lambda: len(kafka.sent) == 3)
    assert not sender.flush(0.01)
    for _, future in kafka.sent[:2]:
        future.success(None)
    assert [sender.add(RECORD) for _ in range(3)] == [True, True, False]
    kafka.answers = True
    _wait_for(lambda: len(kafka.sent) == 5)
    for _, future in kafka.sent:
        future.is_done or future.success(None)
    assert sender.flush(30.0)
    counts = sender.counts()
    assert (counts.accepted, counts.delivered, counts.dropped, counts.lost) == (5, 5, 3, 0)
    assert (counts.pending, counts.pending_bytes) == (0, 0)
    assert (kafka.topics, kafka.times) == ({"topic"}, {RECORD.time})


def test_a_record_larger_than_the_buffer_goes_alone(make: Make) -> None:
    sender = make(FakeKafka(), records=0.1)
    assert [sender.add(RECORD), sender.add(RECORD)] == [True, False]


def test_a_call_waits_for_room_and_no_longer_than_it_may(make: Make) -> None:
    kafka = FakeKafka()
    sender = make(kafka, records=1, wait=0.3)
    assert sender.add(RECORD)
    began = time.monotonic()
    assert not sender.add(RECORD)
    # the upper bound is for a machine that does much else
    assert 0.3 <= time.monotonic() - began < 20.0
    # now there will be room while it waits
    patient = make(kafka, records=1, wait=float("inf"))
    assert patient.add(RECORD)
    _wait_for(lambda: len(kafka.sent) == 2)
    accepted: list[bool] = []
    thread = threading.Thread(target=lambda: accepted.append(patient.add(RECORD)))
    thread.start()
    kafka.sent[1][1].success(None)
    thread.join(30.0)
    assert accepted == [True]


def test_without_a_broker_events_wait_in_the_buffer(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    kafka, attempts = FakeKafka(), []
    kafka.answers = True

    def connect() -> FakeKafka:
        attempts.append(1)
        if len(attempts) < 4:
            raise errors.KafkaConnectionError("no broker")
        return kafka

    sender = make(connect)
    with caplog.at_level(logging.WARNING):
        assert sender.add(RECORD)
        assert sender.flush(30.0)
    assert sender.counts().delivered == 1
    # of four attempts there is one message
    assert caplog.text.count("cannot send now") == 1


def test_what_the_producer_gives_up_is_sent_again(make: Make) -> None:
    kafka = FakeKafka()
    sender = make(kafka)
    sender.add(RECORD)
    _wait_for(lambda: len(kafka.sent) == 1)
    kafka.answers = True
    kafka.sent[0][1].failure(errors.OutOfOrderSequenceNumberError())
    assert sender.flush(30.0)
    assert [value for value, _ in kafka.sent] == [RECORD.value] * 2
    assert (sender.counts().delivered, sender.counts().lost) == (1, 0)


def test_brokers_that_refuse_a_login_are_not_asked_for_each_record(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 3600.0)
    attempts: list[int] = []

    def connect() -> FakeKafka:
        attempts.append(1)
        raise errors.SaslAuthenticationFailedError

    sender = make(connect, records=100, give_up_s=1e6)
    for _ in range(100):
        sender.add(RECORD)
    _wait_for(lambda: len(attempts) == 1)
    assert not sender.flush(0.3)
    assert len(attempts) == 1


def test_a_producer_that_waits_for_its_brokers_is_kept(make: Make) -> None:
    kafka, made = FakeKafka(), []
    kafka.refuse = errors.KafkaTimeoutError("no metadata")

    def connect() -> FakeKafka:
        made.append(1)
        return kafka

    sender = make(connect)
    sender.add(RECORD)
    assert not sender.flush(0.2)
    kafka.refuse, kafka.answers = None, True
    assert sender.flush(30.0)
    assert len(made) == 1


@pytest.mark.parametrize("when", ["raised", "answered"])
def test_what_no_broker_will_take_is_given_up_at_once_and_told(make: Make, when: str) -> None:
    kafka, lost = FakeKafka(), []
    sender = make(kafka, on_lost=lambda record, error: lost.append((record, type(error))))
    error = errors.MessageSizeTooLargeError()
    if when == "raised":
        kafka.refuse = error
    sender.add(RECORD)
    if when == "answered":
        _wait_for(lambda: len(kafka.sent) == 1)
        kafka.sent[0][1].failure(error)
    assert sender.flush(30.0)
    assert lost == [(RECORD, errors.MessageSizeTooLargeError)]
    assert (sender.counts().lost, sender.counts().pending_bytes) == (1, 0)


def test_a_callback_that_fails_stops_nothing(make: Make) -> None:
    kafka = FakeKafka()
    kafka.refuse = errors.MessageSizeTooLargeError()

    def fail(*_: object) -> None:
        raise ValueError

    sender = make(kafka, on_lost=fail)
    sender.add(RECORD)
    assert sender.flush(30.0)
    kafka.refuse, kafka.answers = None, True
    sender.add(RECORD)
    assert sender.flush(30.0)
    assert (sender.counts().lost, sender.counts().delivered) == (1, 1)


@pytest.mark.parametrize("lacking", ["metadata", "brokers"])
def test_events_are_given_up_after_their_time(make: Make, lacking: str) -> None:
    """All of them at once, however long an attempt takes."""
    kafka, lost = FakeKafka(), []
    kafka.refuse = errors.KafkaTimeoutError()

    def connect() -> FakeKafka:
        if lacking == "brokers":
            time.sleep(0.05)
            raise errors.KafkaTimeoutError
        return kafka

    sender = make(connect, records=1e4, give_up_s=0.2, on_lost=lambda *what: lost.append(what))
    for _ in range(2_000):
        sender.add(RECORD)
    assert sender.flush(30.0)
    assert (len(lost), sender.counts().lost) == (2_000, 2_000)


def test_closing_delivers_what_is_there(make: Make) -> None:
    kafka = FakeKafka()
    kafka.answers = True
    sender = make(kafka, records=1000)
    for _ in range(1000):
        assert sender.add(RECORD)
    assert sender.close(30.0)
    assert len(kafka.sent) == 1000
    assert kafka.closed
    assert sender.close()
    with pytest.raises(RuntimeError, match="closed"):
        sender.add(RECORD)


def test_closing_gives_up_what_cannot_be_delivered(make: Make) -> None:
    kafka, lost = FakeKafka(), []
    sender = make(kafka, on_lost=lambda *what: lost.append(what))
    sender.add(RECORD)
    _wait_for(lambda: len(kafka.sent) == 1)
    sender.add(RECORD)
    assert not sender.close(0.05)
    counts = sender.counts()
    assert (counts.lost, counts.pending, counts.pending_bytes, len(lost)) == (2, 0, 0, 2)


def test_closing_gives_up_what_waits_for_another_attempt(make: Make) -> None:
    kafka = FakeKafka()
    kafka.refuse = errors.KafkaTimeoutError("no metadata")
    sender = make(kafka)
    sender.add(RECORD)
    assert not sender.close(0.05)
    assert (sender.counts().lost, sender.counts().pending) == (1, 0)


def test_a_callback_may_take_its_time_and_deliveries_go_on(make: Make) -> None:
    kafka, told, go_on = FakeKafka(), threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        told.set()
        go_on.wait(60)

    sender = make(kafka, on_lost=wait)
    sender.add(RECORD)
    sender.add(RECORD)
    _wait_for(lambda: len(kafka.sent) == 2)
    # in the producer's only thread, which must not be held up
    kafka.sent[0][1].failure(errors.MessageSizeTooLargeError())
    assert told.wait(30)
    kafka.sent[1][1].success(None)
    assert sender.counts().delivered == 1
    assert not sender.flush(0.05)
    go_on.set()
    assert sender.flush(30)


@pytest.mark.parametrize("timeout", [float("inf"), 1e300])
def test_one_may_wait_for_ever(make: Make, timeout: float) -> None:
    kafka = FakeKafka()
    sender = make(kafka)
    sender.add(RECORD)
    _wait_for(lambda: len(kafka.sent) == 1)
    done: list[bool] = []
    threads = [
        threading.Thread(target=lambda wait=wait: done.append(wait(timeout)))
        for wait in (sender.flush, sender.close)
    ]
    for thread in threads:
        thread.start()
    kafka.sent[0][1].success(None)
    for thread in threads:
        thread.join(30.0)
    assert done == [True, True]


def test_closing_wakes_a_call_that_waits(make: Make) -> None:
    sender = make(FakeKafka(), records=1, wait=float("inf"))
    sender.add(RECORD)
    failed: list[str] = []

    def wait() -> None:
        try:
            sender.add(RECORD)
        except RuntimeError as error:
            failed.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    sender.close(0.0)
    thread.join(30.0)
    assert failed == ["this log is closed"]


def test_many_threads_lose_and_count_nothing_twice(make: Make) -> None:
    kafka = FakeKafka()
    kafka.answers = True
    sender = make(kafka, records=7, wait=float("inf"))

    def log(thread: int) -> None:
        for n in range(500):
            sender.add(Record(b"k", f"{thread}-{n}".encode(), 0))

    threads = [threading.Thread(target=log, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert sender.close(30.0)
    values = [value for value, _ in kafka.sent]
    assert sorted(values) == sorted(f"{t}-{n}".encode() for t in range(4) for n in range(500))
    # of one thread, in its order
    assert [v for v in values if v.startswith(b"2-")] == [f"2-{n}".encode() for n in range(500)]
    assert sender.counts().delivered == 2000


def test_in_a_forked_process_a_call_says_so(make: Make) -> None:
    sender = make(FakeKafka())
    child = os.fork()
    if child == 0:
        try:
            sender.add(RECORD)
        except RuntimeError as error:
            os._exit(0 if "forked" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


_AT_EXIT = """
import atexit, time
from kafka import errors
from tests.unit.test_online_sender import FakeKafka, RECORD
from online.sender import Sender

class Slow(FakeKafka):
    answers = True
    def __init__(self):
        super().__init__()
        self.answers = True
        # as KafkaProducer does
        atexit.register(self.stop)
    def stop(self):
        self.refuse = errors.IllegalStateError("already closed")
    def send(self, *arguments, **options):
        time.sleep(0.005)
        return super().send(*arguments, **options)
    def close(self, timeout=None):
        print(len(self.sent), flush=True)

sender = Sender(Slow, "t", buffer_bytes=1 << 20, max_wait_s=0, give_up_s=60)
sender.add(RECORD)
sender.flush(30)
for _ in range(99):
    sender.add(RECORD)
"""


def test_an_interpreter_that_ends_delivers_first() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _AT_EXIT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "100\n"), done.stderr


def test_closing_does_not_wait_for_a_client_that_does_not_come_back(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection attempt ends when kafka-python likes; a process that is to end does not wait."""
    monkeypatch.setattr(module, "_END_S", 0.2)
    entered, back = threading.Event(), threading.Event()
    kafka = FakeKafka()

    def connect() -> FakeKafka:
        entered.set()
        assert back.wait(120)
        return kafka

    sender = make(connect)
    given_up: Any = concurrent.futures.Future()
    assert sender.add(RECORD, given_up)
    assert entered.wait(60)
    closed: list[bool] = []
    closing = threading.Thread(target=lambda: closed.append(sender.close(0.1)))
    closing.start()
    closing.join(60)
    try:
        assert closed == [False], "it still waits"
        assert isinstance(given_up.exception(0), TimeoutError)
        assert (sender.counts().lost, sender.counts().pending) == (1, 0)
    finally:
        back.set()
        closing.join(60)
    # what comes too late sends nothing that was given up
    _wait_for(lambda: kafka.closed)
    assert kafka.sent == []


def test_it_says_why_the_brokers_may_not_take_more(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = FakeKafka()
    sender = make(kafka)
    assert sender.trouble() is None
    kafka.refuse = errors.NodeNotReadyError("no broker")
    assert sender.add(RECORD)
    _wait_for(lambda: "no broker" in (sender.trouble() or ""))
    kafka.refuse, kafka.answers = None, True
    _wait_for(lambda: sender.trouble() is None)
    # a failure is forgotten after a while: only another record can show that it is over
    kafka.refuse = errors.NodeNotReadyError("no broker")
    assert sender.add(RECORD)
    _wait_for(lambda: sender.trouble() is not None)
    kafka.refuse, kafka.answers = errors.MessageSizeTooLargeError("too large"), False
    _wait_for(lambda: sender.counts().lost == 1)
    assert sender.trouble() is not None
    monkeypatch.setattr(module, "_RECENT_S", 0.0)
    assert sender.trouble() is None


def test_an_event_that_waits_for_long_says_so(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = make(FakeKafka())
    assert sender.add(RECORD)
    assert sender.trouble() is None
    monkeypatch.setattr(module, "_SLOW_S", 0.0)
    assert "an event has waited for 0 s" in (sender.trouble() or "")
