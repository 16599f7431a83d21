"""Both services as processes, on a real broker: nothing fails, nothing is lost without a word."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jobs.pipeline import config
from services.kafka_broker import KafkaBroker
from services.process import free_port
from services.waiting import wait_until
from tests.online import planted, reading
from tests.online.services import Answer, Service

pytestmark = pytest.mark.thorough

REFRESHES, CLIENTS = 100, 3
METRIC = "sample_stitch_ranking"


def _ranking(folder: Path, **options: str) -> Service:
    port = free_port()
    return Service("online.ranking", planted.ranking(folder, port, **options), port)


def _collector(folder: Path, **options: str) -> Service:
    port = free_port()
    return Service("online.collector", planted.collector(folder, port, **options), port)


def _kill(broker: KafkaBroker) -> None:
    os.kill(broker.process_ids[0], signal.SIGKILL)
    wait_until(lambda: not broker.is_running(), 30, "the broker to be dead")


class _Asking(threading.Thread):
    """A client that asks until it is told to stop, and keeps all answers."""

    def __init__(self, service: Service, number: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._service, self._number, self._stopping = service, number, stop
        self.answers: list[tuple[str, list[dict[str, Any]], Answer]] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with self._service.client() as client:
                for n in itertools.count():
                    if self._stopping.is_set():
                        break
                    name = f"r-{self._number}-{n}"
                    candidates = planted.candidates(n, 20)
                    body = {
                        "request_id": name,
                        "user_id": f"u-{n % 5}",
                        "event_time": planted.START + n,
                        "context": {"hour": n % 24},
                        "candidates": candidates,
                    }
                    self.answers.append((name, candidates, client.post("/rank", body)))
        except BaseException as error:
            self.error = error


def _export(folder: Path, number: int) -> planted.Planted:
    """Bases and deltas, of a run, then of another one, then of another model; some are damaged."""
    run = "run-a" if number < 50 else "run-b" if number < 70 else "run-c"
    heads = ("click", "purchase") if number < 70 else ("purchase", "click")
    return planted.export(
        folder,
        number,
        "base" if number % 10 == 0 else "delta",
        run,
        planted.spec(*heads),
        damaged=number % 25 == 13,
    )


def test_no_request_fails_or_mixes_models_while_exports_come(
    broker: KafkaBroker, tmp_path: Path
) -> None:
    for stream in ("features", "actions"):
        broker.create_topic(f"refreshed-{stream}", partitions=3)
    path = planted.pipeline(tmp_path, broker.bootstrap_servers, "refreshed")
    first = _export(tmp_path, 0)
    exports = {first.version: first}
    stop = threading.Event()
    with _ranking(tmp_path, refresh="5ms") as service:

        def serves(export: int) -> bool:
            newest = service.metrics()[f"{METRIC}_model_event_timestamp_seconds"]
            return newest == (planted.START + export) / 1e3

        def failed_since(failures: float) -> bool:
            return service.metrics()[f"{METRIC}_refresh_failures"] > failures

        asking = [_Asking(service, n, stop) for n in range(CLIENTS)]
        for one in asking:
            one.start()
        for number in range(1, REFRESHES + 1):
            before = service.metrics()[f"{METRIC}_refresh_failures"]
            made = _export(tmp_path, number)
            exports[made.version] = made
            if number % 25 == 13:
                wait_until(partial(failed_since, before), 60, "a failure to be counted")
                assert serves(number - 1)
                planted.flip(made.part)
            wait_until(partial(serves, number), 60, f"export {number} to serve", every_s=0.005)
        stop.set()
        for one in asking:
            one.join(timeout=60)
        metrics = service.metrics()
        assert service.end() == 0
    assert [one.error for one in asking] == [None] * CLIENTS
    answers = {
        name: (candidates, answer) for one in asking for name, candidates, answer in one.answers
    }
    assert {answer.status for _, answer in answers.values()} == {200}
    assert metrics[f"{METRIC}_refreshes"] == REFRESHES + 1
    assert metrics[f'{METRIC}_requests_total{{outcome="ranked"}}'] == len(answers)
    served: Counter[tuple[str, int]] = Counter()
    explored = 0
    for candidates, answer in answers.values():
        said = answer.json
        version = said["model"]["run"], said["model"]["number"]
        served[version] += 1
        explored += said["explored"]
        scores = {item["item_id"]: item["score"] for item in said["items"]}
        wanted = exports[version].scores(candidates)
        assert [scores[one["item_id"]] for one in candidates] == pytest.approx(wanted, abs=1e-5)
        if not said["explored"]:
            assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert len(served) > REFRESHES // 2
    assert 0 < explored < len(answers)
    # what was logged is what was answered, and what was used; SIGTERM has lost nothing
    records = reading.records(broker.bootstrap_servers, "refreshed-features")
    logged = reading.requests(config.load(path), [(r.value, r.timestamp) for r in records])
    assert logged.keys() == answers.keys()
    for name, (candidates, answer) in answers.items():
        said, event = answer.json, logged[name]
        given = {one["item_id"]: one["features"] for one in candidates}
        model = f"{said['model']['run']}/{said['model']['number']}"
        assert event["context"] == {
            "hour": int(name.rsplit("-", 1)[1]) % 24,
            "rank_model": model,
            "rank_explored": said["explored"],
        }
        assert event["items"] == [
            {
                "item_id": item["item_id"],
                "features": given[item["item_id"]]
                | {"rank_score": item["score"], "rank_propensity": item["propensity"]},
            }
            for item in said["items"]
        ]


def _request(name: str, **more: Any) -> dict[str, Any]:
    return {
        "request_id": name,
        "user_id": "u-1",
        "event_time": planted.START,
        "context": {"hour": 3},
        "candidates": planted.candidates(),
    } | more


def _action(n: int, **more: Any) -> dict[str, Any]:
    return {
        "kind": "click",
        "user_id": "u-1",
        "item_id": f"i-{n}",
        "request_id": f"r-{n}",
        "event_id": f"e-{n}",
        "event_time": planted.START + n,
    } | more


def test_both_go_on_without_a_broker_and_after_kill_9(broker: KafkaBroker, tmp_path: Path) -> None:
    for stream in ("features", "actions"):
        broker.create_topic(f"killed-{stream}")
    planted.pipeline(tmp_path, broker.bootstrap_servers, "killed")
    with (
        _ranking(tmp_path) as service,
        service.client() as client,
        _collector(tmp_path, within="3s") as collector,
        collector.client() as phone,
    ):
        assert client.get("/readyz").status == 503
        said = client.post("/rank", _request("r-before")).json
        assert (said["model"], said["fallback"]) == (None, "no model yet")
        assert [item["item_id"] for item in said["items"]] == planted.ITEMS[:20]
        wait_until(lambda: service.metrics()[f"{METRIC}_log_delivered"] == 1, 60, "the first event")
        # the first export is found without a restart
        planted.export(tmp_path, 0, "base")
        wait_until(lambda: client.get("/readyz").status == 200, 60, "a model")
        assert client.post("/rank", _request("r-model")).json["model"]["number"] == 0
        wait_until(lambda: service.metrics()[f"{METRIC}_log_delivered"] == 2, 60, "the second one")
        batch = {"actions": [_action(n) for n in range(10)]}
        assert phone.post("/actions", batch).status == 200

        _kill(broker)
        longest = 0.0
        for n in range(300):
            begun = time.perf_counter()
            assert client.post("/rank", _request(f"r-away-{n}")).status == 200
            longest = max(longest, time.perf_counter() - begun)
        # less than any attempt to reach a broker takes, on a machine that is busy
        assert longest < 5
        assert service.metrics()[f"{METRIC}_log_pending"] == 300
        later = {"actions": [_action(n) for n in range(10, 20)]}
        for _ in range(2):
            refused = phone.post("/actions", later)
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) >= 1

        broker.start()
        # the client's part: again, with the same event ids
        wait_until(lambda: phone.post("/actions", later).status == 200, 120, "a broker")
        wait_until(lambda: service.metrics()[f"{METRIC}_log_delivered"] == 302, 120, "the rest")
        planted.export(tmp_path, 1, "delta")
        service.kill()
        service.start()
        # it has the newest export before it answers
        with service.client() as anew:
            assert anew.post("/rank", _request("r-after")).json["model"]["number"] == 1
        assert (service.end(), collector.end()) == (0, 0)
    requests = reading.records(broker.bootstrap_servers, "killed-features")
    names = ["r-before", "r-model", "r-after", *(f"r-away-{n}" for n in range(300))]
    assert {record.key.decode() for record in requests} == set(names)
    actions = reading.records(broker.bootstrap_servers, "killed-actions")
    assert {json.loads(record.value)["event_id"] for record in actions} == {
        f"e-{n}" for n in range(20)
    }


def test_an_answer_to_actions_means_that_the_broker_has_them(
    broker: KafkaBroker, tmp_path: Path
) -> None:
    for stream in ("features", "actions"):
        broker.create_topic(f"acted-{stream}", partitions=3)
    path = planted.pipeline(tmp_path, broker.bootstrap_servers, "acted")

    def there() -> dict[str, Any]:
        records = reading.records(broker.bootstrap_servers, "acted-actions")
        return reading.actions(config.load(path), [(r.value, r.timestamp) for r in records])

    with _collector(tmp_path) as service, service.client() as client:
        good = [_action(n) for n in range(200)]
        answer = client.post("/actions", {"actions": good})
        assert answer.status == 200
        assert answer.json == {"results": [{"status": "accepted"}] * 200}
        assert there().keys() == {f"e-{n}" for n in range(200)}

        later = int(time.time() * 1_000) + 10_000_000
        mixed = [
            _action(200),
            _action(201, kind="share"),
            _action(202, event_time=later),
            _action(203, kind="purchase"),
            {"kind": "click"},
            _action(205, kind="purchase", value=9.5),
        ]
        answer = client.post("/actions", {"actions": mixed})
        assert answer.status == 200
        assert [one.get("reason") for one in answer.json["results"]] == [
            None,
            "unknown_action",
            "future_clock",
            "missing_value",
            "bad_action",
            None,
        ]
        found = there()
        assert found.keys() == {f"e-{n}" for n in (*range(201), 205)}
        assert found["e-205"]["value"] == 9.5

        too_many = client.post("/actions", {"actions": [_action(n) for n in range(501)]})
        too_long = client.post("/actions", b'{"actions": [' + b" " * 200_000 + b"]}")
        assert (too_many.status, too_long.status) == (413, 413)
        assert client.post("/actions", b"{").status == 400
        assert service.end() == 0
