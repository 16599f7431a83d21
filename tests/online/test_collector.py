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
from online import collector, event_log, http_service, ranking
from online.collector import Answer, Batch, Collector, CollectorConfig
from online.event_log import ActionLog
from online.http_service import RefusedError
from services import prometheus
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


# -- the file, the address -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "now", "why"),
    [
        ('answer_within = "60s"', 'answer_within = "0s"', "answer_within: must be longer than 0"),
        ("max_actions = 500", "max_actions = 0", "server.max_actions"),
        ("max_body_bytes = 100000", "max_body_bytes = -1", "server.max_body_bytes"),
        ("port = 0", "port = 65536", "server.port"),
        ("port = 0", "port = -1", "server.port"),
    ],
)
def test_a_wrong_file_is_refused_at_the_start(
    was: str, now: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted.pipeline(tmp_path)
    path = planted.collector(tmp_path)
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, now))
    assert collector.main(["--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("collector: ")
    assert why in said


@pytest.mark.parametrize("service", [collector, ranking])
def test_a_port_that_is_taken_is_said_at_the_start(
    service: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted.pipeline(tmp_path)
    with http_service.bound("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        make = planted.collector if service is collector else planted.ranking
        assert service.main(["--config", str(make(tmp_path, port=port))]) == 1
    said = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in said
    assert said.count("\n") == 1


# -- over HTTP, without a network ------------------------------------------------------------------


class Outage(Brokers):
    """They cannot be reached."""

    def send(self, topic: str, value: bytes, key: bytes, *, timestamp_ms: int) -> Future:
        raise errors.NodeNotReadyError("nobody there")


def asked(app: Any, path: str, *parts: bytes | None) -> tuple[int, str]:
    """Status and body. `parts`: of the request's body; None: the client has gone."""
    received = iter(parts)
    sent: list[Any] = []

    async def receive() -> Any:
        part = next(received)
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    method = "POST" if parts else "GET"
    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))
    begun, *rest = sent
    return begun["status"], b"".join(of["body"] for of in rest).decode()


def test_it_is_not_ready_while_the_brokers_take_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted.pipeline(tmp_path)
    monkeypatch.setattr(event_log, "_connecting", lambda *_: Outage)
    config = read(planted.collector(tmp_path), CollectorConfig)
    log = ActionLog(tmp_path / "pipeline.toml")
    app = collector.application_of(config, log)
    assert asked(app, "/readyz")[0] == 200
    log.action("click", "u", "i", request_id="r", event_id="e")
    wait_until(lambda: log.trouble() is not None, 60, "a failure")
    status, why = asked(app, "/readyz")
    assert (status, why) == (503, "topic-actions: NodeNotReadyError: nobody there\n")
    assert asked(app, "/healthz")[0] == 200
    log.close(0)


def test_who_has_gone_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.pipeline(tmp_path)
    monkeypatch.setattr(event_log, "_connecting", lambda *_: Outage)
    config = read(planted.collector(tmp_path), CollectorConfig)
    with ActionLog(tmp_path / "pipeline.toml") as log:
        app = collector.application_of(config, log)
        assert asked(app, "/actions", b'{"actions": [', None)[0] == 499
        metrics = prometheus.parsed(asked(app, "/metrics")[1])
    prefix = "sample_stitch_collector"
    assert metrics[f'{prefix}_batches_total{{status="499"}}'] == 1
    assert metrics[f'{prefix}_batches_total{{status="400"}}'] == 0
    # what was given up is sent again by those who have no answer
    assert metrics[f"{prefix}_log_given_up"] == 0
    assert f"{prefix}_log_lost" not in metrics
