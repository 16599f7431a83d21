"""What an operator watches: metrics, dashboard and alerts, of a real job in a real Prometheus.

A job runs on a cluster, under traffic of the present time. Then what alerts are for is made to
happen, one thing after the other.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from schemas.events import STREAMS
from services import prometheus
from services.flink_cluster import FlinkCluster
from services.flink_metrics import UNSTABLE_LABELS
from services.kafka_broker import KafkaBroker
from services.process import free_port
from services.prometheus import Prometheus
from services.waiting import DeadlineError, wait_until
from tests.e2e import local_job, watched
from tests.e2e.cluster_job import Job
from tests.e2e.kafka_story import KafkaStory
from tests.flink import running

NAME = "watched"
PIPELINE = """
[pipeline]
name = "watched"
[actions.click]
window = "3s"
[actions.like]
window = "5s"
[label_silence]
after = "8s"
[features.price]
type = "float64"
[sources.features]
type = "kafka"
topic = "watched-features"
bootstrap_servers = "{servers}"
out_of_orderness = "1s"
idle_timeout = "2s"
partition_discovery = "1s"
[sources.actions]
type = "kafka"
topic = "watched-actions"
bootstrap_servers = "{servers}"
out_of_orderness = "1s"
idle_timeout = "2s"
partition_discovery = "1s"
[output]
path = "{folder}/out"
[runtime]
checkpoint_interval = "1s"
checkpoint_path = "{folder}/checkpoints"
[flink]
"execution.checkpointing.tolerable-failed-checkpoints" = "1000"
"restart-strategy.type" = "fixed-delay"
"restart-strategy.fixed-delay.attempts" = "30"
"restart-strategy.fixed-delay.delay" = "1s"
"""
PENDING = ("pending_requests", "")
ORPHANS = ("stream_reason_rejected", 'reason="orphan_action"')
#: So many actions are on a request that has very many.
CROWD = 40
#: For what takes seconds on a machine that does nothing else.
DEADLINE_S = 180.0
#: Where a picture of the dashboard is put, if it is wanted (`make dashboard-picture`).
PICTURE = os.environ.get("SAMPLE_STITCH_DASHBOARD_PICTURE")


@dataclass
class Traffic:
    """Requests, and actions on them a second later, at the present time; what is wrong with them
    can be set while it runs. A context manager: it flows within.
    """

    servers: str
    requests: bool = True
    actions: bool = True
    #: Shares of the requests that come too late, of records that are no JSON, and of actions whose
    #: requests never came.
    late: float = 0.0
    broken: float = 0.0
    unknown: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _failed: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        self._thread = threading.Thread(target=self._flow)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert not self._failed, self._failed

    def _flow(self) -> None:
        try:
            producer = KafkaProducer(bootstrap_servers=self.servers)
            number = 0
            while not self._stop.wait(0.02):
                number += 1
                self._step(producer, number)
            producer.close()
        except BaseException as error:
            self._failed.append(error)
            raise

    def _step(self, producer: KafkaProducer, n: int) -> None:
        now = int(time.time() * 1_000)
        if self.requests:
            request = request_of(n, now - (60_000 if every(n, self.late) else 0))
            value = b"{" if every(n + 9, self.broken) else json.dumps(request).encode()
            producer.send(f"{NAME}-features", value, timestamp_ms=now, partition=n % 2)
        if self.actions and n > 50:
            request_id = "nobody's" if every(n, self.unknown) else f"r{n - 50}"
            # one request in a hundred gets very many
            for i in range(CROWD if n % 100 == 0 else 1):
                action: dict[str, Any] = {"request_id": request_id, "user_id": "u"}
                action |= {"item_id": f"i{n % 2}", "action": "click"}
                action |= {"event_id": f"e{n}-{i}", "event_time": now}
                value = b"{" if every(n, self.broken) else json.dumps(action).encode()
                producer.send(f"{NAME}-actions", value, timestamp_ms=now, partition=n % 2)

    def burst(self, requests: int) -> None:
        """So many requests at once."""
        producer = KafkaProducer(bootstrap_servers=self.servers, linger_ms=50)
        for n in range(requests):
            now = int(time.time() * 1_000)
            value = json.dumps(request_of(n, now) | {"request_id": f"burst{n}-{now}"}).encode()
            producer.send(f"{NAME}-features", value, timestamp_ms=now, partition=n % 2)
        producer.flush()
        producer.close()


def request_of(n: int, event_time: int) -> dict[str, Any]:
    items = [{"item_id": f"i{i}", "features": {"price": 1.0}} for i in range(4)]
    return {"request_id": f"r{n}", "user_id": "u", "event_time": event_time, "items": items}


def every(n: int, share: float) -> bool:
    """For this share of the numbers, evenly."""
    return int(n * share) != int((n - 1) * share)


@pytest.fixture
def watched_job(kafka_broker: KafkaBroker, tmp_path: Path) -> Iterator[tuple[FlinkCluster, Job]]:
    """A job at parallelism 1, on a cluster of two task managers that shows metrics."""
    config = tmp_path / "pipeline.toml"
    servers = kafka_broker.bootstrap_servers
    config.write_text(PIPELINE.format(servers=servers, folder=tmp_path))
    for stream in ("features", "actions"):
        kafka_broker.create_topic(f"{NAME}-{stream}", partitions=2)
    settings = {"heartbeat.interval": "2 s", "heartbeat.timeout": "8 s"}
    folder = tmp_path / "flink"
    with FlinkCluster(folder, metrics_port=0, log_format="json", settings=settings) as cluster:
        program = running.ROOT / "jobs" / "join_samples.py"
        submitted = cluster.run(program, ["--config", str(config)], parallelism=1)
        yield cluster, Job(cluster, submitted.job_id)


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    not prometheus.is_installed(),
    reason="needs Prometheus and promtool on PATH (apt-get install prometheus)",
)
def test_every_panel_shows_something_and_every_alert_fires_for_its_cause(
    kafka_broker: KafkaBroker, watched_job: tuple[FlinkCluster, Job], tmp_path: Path
) -> None:
    cluster, job = watched_job
    rules = tmp_path / "alerts.json"
    watched.write_shorter_alerts(rules)
    fired: set[str] = set()
    began = time.time()
    with (
        Traffic(kafka_broker.bootstrap_servers) as traffic,
        Prometheus(tmp_path / "prometheus", targets(cluster), rules=[rules]) as prom,
    ):

        def fires(*names: str) -> None:
            try:
                wait_until(lambda: prom.firing() >= {*names}, DEADLINE_S, "alerts to fire")
            except DeadlineError as error:
                raise AssertionError(f"of {names} fire only {prom.firing()}") from error
            fired.update(names)

        def flooded(name: str) -> bool:
            if name in prom.firing():
                return True
            traffic.burst(10_000)
            return False

        # Everything flows, and nothing fires.
        wait_until(lambda: value(prom, "settled") > 200, DEADLINE_S, "requests to settle")
        calms_down(prom)
        assert value(prom, "pending_requests") > 0
        assert value(prom, "held_actions") > 0

        # One request in a hundred has very many actions; no other key has more than a few.
        largest = "max(flink_taskmanager_job_task_operator_largest_key)"
        wait_until(lambda: value(prom, "largest_key", "max") >= CROWD, DEADLINE_S, largest)
        assert value(prom, "largest_key", "max") < 3 * CROWD

        # Records that are wrong, each in its way; now there is something to see in every panel.
        traffic.late = traffic.broken = 0.05
        traffic.unknown = 1.0
        fires("LateRequests", "UnusableRecords", "OrphanActions", "NoPositives")
        for query in watched.queries(NAME):
            found = prom.query(query.expression)
            assert found, f"{query.panel}: {query.expression}"
            assert not {*found[0].labels} & {*UNSTABLE_LABELS}
            # NaN is what a gauge says that has nothing to say
            assert all(one.value == one.value for one in found), f"{query.panel}: {found}"
        traffic.late = traffic.broken = traffic.unknown = 0.0

        # No actions, and a checkpoint folder that cannot be written to; then nothing comes at all.
        still = {"LabelsHeld", "CheckpointTooOld", "CheckpointsFail", "SamplesOld"}
        still |= {"RequestsOverdue", "NothingRead"}
        is_silent(prom, *still)
        traffic.actions = False
        with broken_folder(tmp_path / "checkpoints"):
            fires(*still - {"NothingRead"})
            traffic.requests = False
            fires("NothingRead")
        traffic.requests = traffic.actions = True
        calms_down(prom)

        # The machines die on which it could run; when there is one again, much waits to be read.
        for name in cluster.task_managers:
            cluster.kill_task_manager(name)
        fires("JobRestarts", "ProcessDown")
        traffic.burst(30_000)
        cluster.add_task_manager()
        prom.scrape(targets(cluster))
        wait_until(lambda: flooded("ReadingBehind"), DEADLINE_S, "ReadingBehind to fire")
        fired.add("ReadingBehind")
        is_silent(prom, "ReadingBehind")
        is_silent(prom, "NoJobRuns")
        cluster.cancel(job.id)
        fires("NoJobRuns")
        if PICTURE:
            from tests.e2e import dashboard_picture

            dashboard_picture.draw(prom, NAME, began, time.time(), Path(PICTURE))
    assert fired == {*watched.alerts()}
    check_logs(cluster.log_folder, at_least=3)  # one a process


@pytest.mark.thorough
def test_a_local_run_shows_its_metrics_and_logs_as_json(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    story = KafkaStory(kafka_broker, tmp_path, "watched-locally", '[actions.click]\nwindow = "10s"')
    story.create_topics()
    story.requests(range(40))
    story.clicks(dict.fromkeys(range(39), 1))
    story.clicks({60: -50, 61: -50})  # on requests that are not there
    port = free_port()
    settings = (f"runtime.metrics_port={port}", "runtime.log_format=json")
    arguments = [part for setting in settings for part in ("--set", setting)]
    log = tmp_path / "job.log"
    with local_job.started(["--config", str(story.config), *arguments], log) as running_job:

        def metrics() -> str:
            assert running_job.poll() is None, log.read_text()
            try:
                return scraped(port)
            except OSError:
                return ""

        def everything_is_read() -> bool:
            now = metrics()
            pending, orphans = (metric(now, n, r) for n, r in (PENDING, ORPHANS))
            return (pending, orphans) == (12, 2)

        # the last one's time is 39 s, less the bound: those up to 27 s have settled
        wait_until(everything_is_read, 120, "12 requests to be pending, and 2 orphans")
        now = metrics()

        # docs/audit.md, "The same while it runs"
        def of(name: str, labels: str = "") -> float:
            return metric(now, name, labels)

        rejected = {s: of("stream_reason_rejected", f'stream="{s}"') for s in STREAMS}
        assert of("features_read") == 40 == rejected["features"] + of("accepted")
        assert of("accepted") == of("settled") + of("pending_requests")
        outcomes = ("actions_ignored", "joined", "late", "held_actions")
        assert of("actions_read") == 41 == rejected["actions"] + sum(map(of, outcomes))
        assert of("action_positives", 'action="click"') == of("joined") == 28
        check_logs(tmp_path / "out" / "_logs", at_least=1)


def scraped(port: int) -> str:
    """What a process shows to Prometheus."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=15) as response:
        return bytes(response.read()).decode()


def metric(text: str, name: str, labels: str = "") -> float:
    """The sum of a metric, over what has these labels; 0 while it is not there."""
    name = f"flink_taskmanager_job_task_operator_{name}"
    found = re.findall(rf"^{name}\{{.*{labels}.*\}} (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def targets(cluster: FlinkCluster) -> list[str]:
    """Where Prometheus finds all processes of the cluster that run now."""
    return [f"127.0.0.1:{port}" for port in cluster.metrics_ports.values()]


def value(prom: Prometheus, name: str, over_subtasks: str = "sum") -> float:
    """The sum over subtasks, or what is said instead; 0 while there is none."""
    found = prom.query(f"{over_subtasks}(flink_taskmanager_job_task_operator_{name})")
    return found[0].value if found else 0.0


def is_silent(prom: Prometheus, *names: str) -> None:
    """Waits until none of these alerts fires. On a busy machine one may, for a moment."""
    wait_until(lambda: not {*names} & prom.firing(), DEADLINE_S, f"{names} to be silent")


def calms_down(prom: Prometheus) -> None:
    """Waits until no alert has fired for 5 s."""
    since = time.monotonic()

    def is_calm() -> bool:
        nonlocal since
        if prom.firing():
            since = time.monotonic()
        return time.monotonic() - since > 5

    wait_until(is_calm, DEADLINE_S, "no alert to fire", every_s=0.5)


@contextmanager
def broken_folder(folder: Path) -> Iterator[None]:
    """A file is where the folder was, so that nothing can be written there, by nobody."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.write_text("")
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)


def check_logs(folder: Path, at_least: int) -> None:
    """Each line of each log is an object with a level, a logger and a message."""
    logs = [log for log in folder.glob("flink-*.log") if "-client-" not in log.name]
    assert len(logs) >= at_least
    for log in logs:
        text = log.read_text()
        entries = [json.loads(line) for line in text[: text.rfind("\n")].splitlines()]
        assert entries
        for entry in entries:
            assert {"@timestamp", "log.level", "log.logger", "message"} <= entry.keys()
