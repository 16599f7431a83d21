"""The logs of an application on a real broker, and the join that reads what they wrote."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from online import ActionLog, FeatureLog, InvalidEventError
from services.kafka_broker import KafkaBroker
from services.waiting import wait_until
from tests.e2e import local_job
from tests.online import reading

pytestmark = pytest.mark.thorough

START = 1_700_000_000_000
REQUESTS, THREADS = 2_000, 4
_PIPELINE = """
[join]
key = "request_id"
[actions.click]
window = "10s"
[features.hour]
scope = "context"
type = "int64"
[features.price]
type = "float64"
{sources}
[output]
path = "{folder}/out"
"""
_SOURCE = """
[sources.{stream}]
type = "kafka"
topic = "{name}-{stream}"
bootstrap_servers = "{servers}"
end = "latest"
[sources.{stream}.properties]
{properties}
"""
_LOGIN = '''
"security.protocol" = "SASL_PLAINTEXT"
"sasl.mechanism" = "SCRAM-SHA-256"
"sasl.jaas.config" = """
org.apache.kafka.common.security.scram.ScramLoginModule required
username="app" password="{password}";
"""
'''


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker of its own, for it is killed."""
    with KafkaBroker(tmp_path_factory.mktemp("kafka"), users={"app": "right"}) as broker:
        yield broker


def _pipeline(folder: Path, name: str, servers: str, properties: str = "") -> Path:
    sources = "".join(
        _SOURCE.format(stream=stream, name=name, servers=servers, properties=properties)
        for stream in ("features", "actions")
    )
    path = folder / "pipeline.toml"
    path.write_text(_PIPELINE.format(sources=sources, folder=folder))
    return path


def test_a_broker_that_is_killed_costs_no_event(broker: KafkaBroker, tmp_path: Path) -> None:
    for stream in ("features", "actions"):
        broker.create_topic(f"killed-{stream}", partitions=3)
    path = _pipeline(tmp_path, "killed", broker.bootstrap_servers)
    half, dead = (threading.Barrier(THREADS + 1, timeout=120) for _ in range(2))
    with FeatureLog(path, give_up_s=600) as features, ActionLog(path, give_up_s=600) as actions:

        def application(thread: int) -> None:
            for n in range(thread, REQUESTS, THREADS):
                if n // THREADS == REQUESTS // THREADS // 2:
                    half.wait()
                    dead.wait()
                time = START + n * 10
                items = [(f"i-{n}-{p}", {"price": n + p / 4}) for p in range(3)]
                assert features.request(
                    f"r-{n}", f"u-{n % 7}", items, context={"hour": n % 24}, event_time=time
                )
                assert actions.action(
                    "click", f"u-{n % 7}", f"i-{n}-1", request_id=f"r-{n}", event_time=time + 5
                )

        threads = [threading.Thread(target=application, args=(t,)) for t in range(THREADS)]
        for thread in threads:
            thread.start()
        half.wait()
        os.kill(broker.process_ids[0], signal.SIGKILL)
        wait_until(lambda: not broker.is_running(), 30, "the broker to be dead")
        dead.wait()
        for thread in threads:
            thread.join()
        assert min(features.counts.pending, actions.counts.pending) >= REQUESTS // 2
        port = broker.port
        broker.start()
        assert broker.port == port
        assert features.flush(120)
        assert actions.flush(120)
        for counts in (features.counts, actions.counts):
            assert (counts.accepted, counts.delivered, counts.lost) == (REQUESTS, REQUESTS, 0)
    logged = reading.records(broker.bootstrap_servers, "killed-features")
    # what was on its way when the broker died may be there twice
    assert set(Counter(record.key.decode() for record in logged)) == {
        f"r-{n}" for n in range(REQUESTS)
    }
    assert {record.timestamp for record in logged} == {START + n * 10 for n in range(REQUESTS)}

    log = tmp_path / "log"
    with local_job.started(["--config", str(path)], log) as job:
        assert job.wait(timeout=240) == 0, log.read_text()
    samples = ds.dataset(tmp_path / "out" / "samples", partitioning="hive").to_table()
    rows = samples.select(["request_id", "item_id", "price", "hour", "label_click"]).to_pylist()
    assert sorted(map(tuple, (row.values() for row in rows))) == sorted(
        (f"r-{n}", f"i-{n}-{p}", n + p / 4, n % 24, int(p == 1))
        for n in range(REQUESTS)
        for p in range(3)
    )


def test_a_record_that_the_broker_refuses_is_lost_alone(
    broker: KafkaBroker, tmp_path: Path
) -> None:
    broker.create_topic("large-features", settings={"max.message.bytes": "20000"})
    path = _pipeline(tmp_path, "large", broker.bootstrap_servers)
    lost: list[bytes] = []
    with FeatureLog(path, on_lost=lambda record, _: lost.append(record.key)) as log:
        for n in range(300):
            items = 2_000 if n == 100 else 3
            assert log.request(
                f"r-{n}", "u-1", [("i", {"price": 1.0})] * items, context={"hour": 1}
            )
        assert log.flush(120)
        assert (log.counts.delivered, log.counts.lost) == (299, 1)
    assert lost == [b"r-100"]
    keys = [
        record.key.decode()
        for record in reading.records(broker.bootstrap_servers, "large-features")
    ]
    assert keys == [f"r-{n}" for n in range(300) if n != 100]


def test_closing_says_what_a_dead_broker_did_not_take(broker: KafkaBroker, tmp_path: Path) -> None:
    broker.create_topic("dead-features")
    path = _pipeline(tmp_path, "dead", broker.bootstrap_servers)
    lost: list[bytes] = []
    log = FeatureLog(path, on_lost=lambda record, _: lost.append(record.key))
    items = [("i-1", {"price": 1.0})]
    assert log.request("r-1", "u-1", items, context={"hour": 1})
    assert log.flush(60)
    os.kill(broker.process_ids[0], signal.SIGKILL)
    wait_until(lambda: not broker.is_running(), 30, "the broker to be dead")
    try:
        assert log.request("r-2", "u-1", items, context={"hour": 1})
        assert not log.close(1)
    finally:
        broker.start()
    assert (log.counts.delivered, log.counts.lost, log.counts.pending, lost) == (1, 1, 0, [b"r-2"])


_ENDS = """
import sys
from online import FeatureLog
log = FeatureLog(sys.argv[1])
for n in range(3_000):
    log.request(f"r-{n}", "u", [("i", {"price": 1.0})] * 10, context={"hour": 1})
"""


def test_an_application_that_ends_delivers_first(broker: KafkaBroker, tmp_path: Path) -> None:
    broker.create_topic("ends-features", partitions=3)
    path = _pipeline(tmp_path, "ends", broker.bootstrap_servers)
    done = subprocess.run(
        [sys.executable, "-c", _ENDS, path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    keys = [
        record.key.decode() for record in reading.records(broker.bootstrap_servers, "ends-features")
    ]
    assert sorted(keys) == sorted(f"r-{n}" for n in range(3_000)), done.stderr


def test_a_log_logs_in_as_the_job_does_and_says_what_it_waits_for(
    broker: KafkaBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker.create_topic("login-features")
    items = [("i-1", {"price": 1.0})]
    for password in ("wrong", "right"):
        path = _pipeline(
            tmp_path, "login", broker.servers("LOGIN"), _LOGIN.format(password=password)
        )
        with caplog.at_level(logging.WARNING, "online"):
            log = FeatureLog(path)
            assert log.request("r-1", "u-1", items, context={"hour": 1})
            with pytest.raises(InvalidEventError, match="undeclared_feature"):
                log.request("r-1", "u-1", [("i-1", {"prize": 1.0})], context={"hour": 1})
            assert log.counts.invalid == {"undeclared_feature": 1}
            if password == "wrong":
                wait_until(lambda: "cannot send now" in caplog.text, 60, "a warning")
                assert "right" not in caplog.text
                assert not log.close(0)
                assert log.counts.lost == 1
            else:
                assert log.close(60)
    assert [
        record.key for record in reading.records(broker.bootstrap_servers, "login-features")
    ] == [b"r-1"]
