"""An answer comes when the brokers have all of a batch, and not before."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import errors
from kafka.future import Future

from configuration.reading import read
from online import event_log
from online.collector import Answer, Batch, Collector, CollectorConfig
from online.event_log import ActionLog
from online.http_service import RefusedError
from services.waiting import wait_until
from tests.online import planted


class Brokers:
    """They have got records, and answer when they are told to."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Future]] = []

    def send(self, topic: str, value: bytes, key: bytes, *, timestamp_ms: int) -> Future:
        future = Future()
        self.got.append((msgspec.json.decode(value)["event_id"], future))
        return future

    def close(self, timeout: float | None = None) -> None:
        """There is nothing that it could still do."""


def action(n: int, **more: Any) -> dict[str, Any]:
    return {
        "kind": "click",
        "user_id": "u",
        "item_id": "i",
        "request_id": "r",
        "event_id": f"e-{n}",
        "event_time": planted.START,
    } | more


def collected(
    folder: Path,
    actions: list[dict[str, Any]],
    meanwhile: Callable[[Brokers, asyncio.Task[Answer]], Any],
    monkeypatch: pytest.MonkeyPatch,
    within: str = "60s",
) -> Answer:
    """What a collector answers; `meanwhile` runs beside it, in a thread."""
    planted.pipeline(folder)
    brokers = Brokers()
    monkeypatch.setattr(event_log, "_connecting", lambda *_: lambda: brokers)
    config = read(planted.collector(folder, within=within), CollectorConfig)
    batch = Batch([msgspec.Raw(msgspec.json.encode(one)) for one in actions])
    log = ActionLog(folder / "pipeline.toml")

    async def both() -> Answer:
        asked = asyncio.create_task(Collector(config, log).collect(batch))
        try:
            await asyncio.to_thread(meanwhile, brokers, asked)
            return await asked
        except RefusedError:
            # what becomes of the batch afterwards
            await asyncio.to_thread(refuse_the_rest)
            await asyncio.sleep(0)
            raise
        finally:
            asked.cancel()

    def refuse_the_rest() -> None:
        wait_until(lambda: len(brokers.got) == log.counts.accepted, 60, "all to be sent")
        for _, future in brokers.got:
            if not future.is_done:
                future.failure(errors.PolicyViolationError())
        assert log.flush(60)

    try:
        return asyncio.run(both())
    finally:
        log.close(0)


def test_it_answers_when_the_last_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[bool] = []

    def meanwhile(brokers: Brokers, asked: asyncio.Task[Answer]) -> None:
        wait_until(lambda: len(brokers.got) == 5, 60, "all to be sent")
        for _, future in brokers.got[1:]:
            future.success(None)
        answered.append(asked.done())
        brokers.got[0][1].success(None)

    actions = [action(n) for n in range(5)]
    actions.insert(2, action(9, kind="share"))
    answer = collected(tmp_path, actions, meanwhile, monkeypatch)
    assert answered == [False]
    assert [one.status for one in answer.results] == [
        *("accepted", "accepted", "rejected"),
        *("accepted", "accepted", "accepted"),
    ]
    assert answer.results[2].reason == "unknown_action"


def test_brokers_that_do_not_answer_are_waited_for_no_longer_than_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And what becomes of the batch after that is not reported as an error of the service."""
    with caplog.at_level(logging.DEBUG), pytest.raises(RefusedError) as refused:
        collected(
            tmp_path, [action(n) for n in range(5)], lambda *_: None, monkeypatch, within="50ms"
        )
    assert (refused.value.status, refused.value.reason) == (503, "unavailable")
    # its traceback holds what the collector waited for
    del refused
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_an_action_that_the_brokers_refuse_for_good_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(brokers: Brokers, _: object) -> None:
        wait_until(lambda: len(brokers.got) == 3, 60, "all to be sent")
        brokers.got[1][1].failure(errors.PolicyViolationError())
        for at in (0, 2):
            brokers.got[at][1].success(None)

    answer = collected(tmp_path, [action(n) for n in range(3)], meanwhile, monkeypatch)
    assert [one.reason for one in answer.results] == [None, "refused_by_broker", None]


def test_a_batch_of_nothing_good_needs_no_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = action(1, event_time=4_000_000_000_000)
    deep: Any = msgspec.Raw(b'{"kind": ' + b"[" * 5_000 + b"]" * 5_000 + b"}")
    actions = [late, {"kind": "click"}, action(2, colour="red"), action(3, request_id=None), deep]
    answer = collected(tmp_path, actions, lambda *_: None, monkeypatch)
    assert [one.reason for one in answer.results] == [
        *("future_clock", "bad_action", "bad_action", "missing_field", "bad_action"),
    ]


def test_a_batch_that_is_too_large_is_refused_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(brokers: Brokers, asked: asyncio.Task[Answer]) -> None:
        wait_until(asked.done, 60, "the answer")
        assert brokers.got == []

    with pytest.raises(RefusedError) as refused:
        collected(tmp_path, [action(n) for n in range(501)], meanwhile, monkeypatch)
    assert refused.value.status == 413
