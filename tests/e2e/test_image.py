"""The image of the jobs, as `make image` has built it: what is in it, and that it works.

Job manager, task manager and client run from the image's own root, which is read-only, as the
image's user. They see nothing of this machine's Python, Java or Flink.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services import process
from services.flink_home import flink_home
from services.kafka_broker import KafkaBroker
from services.process import ProcessId, free_port, tail
from services.waiting import wait_until
from services.zookeeper import ZooKeeper
from tests import by_hand
from tests.e2e import by_hand_rows
from tests.e2e.image_root import ImageRoot, missing
from tests.e2e.kafka_story import KafkaStory
from tests.flink import running

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

JOB = "/app/jobs/join_samples.py"
#: What the image has of the project, to be the same as here.
CODE = ("configuration", "corrections", "jobs", "presentation", "schemas", "tools", "udfs")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageRoot]:
    folder = tmp_path_factory.mktemp("image")
    with ImageRoot("sample-stitch", folder, hosts=("jobmanager", "taskmanager")) as image:
        image.skip_unless_it_has(CODE)
        image.add_data(by_hand.load("request_id").folder)
        yield image


class Cluster:
    """Ports of one cluster, and what `FLINK_PROPERTIES` says of them; the rest is the image's."""

    def __init__(self, image: ImageRoot, settings: Mapping[str, str] = {}) -> None:
        self.image = image
        self._settings = settings
        self.rest = free_port()
        self.metrics = {name: free_port() for name in ("jobmanager", "taskmanager")}
        self._rpc = free_port()

    def properties(self, name: str) -> dict[str, str]:
        lines = {
            "jobmanager.rpc.port": self._rpc,
            "rest.port": self.rest,
            "rest.bind-port": self.rest,
            "metrics.reporter.prometheus.port": self.metrics.get(name, 0),
            **self._settings,
        }
        return {"FLINK_PROPERTIES": "".join(f"{key}: {value}\n" for key, value in lines.items())}

    def run(self, name: str, *arguments: str) -> ProcessId:
        return self.image.run(name, *arguments, environment=self.properties(name))

    def get(self, path: str) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.rest}{path}", timeout=10) as answer:
            return json.load(answer)

    def wait_until_healthy(self) -> None:
        # the job manager shows metrics before it takes requests
        for name, more in (("jobmanager", [f"{self.rest}/overview"]), ("taskmanager", [])):
            targets = [str(self.metrics[name]), *more]
            wait_until(partial(self.image.healthy, *targets), 120, f"{name} to be healthy")


def test_what_is_in_it(image: ImageRoot) -> None:
    """Its user is not root, and cannot write but where it must; no build tools, no tests."""
    assert image.config["User"] == "9999:9999"
    for place, writable in (
        ("/tmp", True),
        ("/data", True),
        ("/app", False),
        ("/opt/flink", False),
    ):
        done = image.execute("touch", f"{place}/written")
        assert (done.returncode == 0) == writable, (place, done.stderr)
    for tool in ("gcc", "make", "pip", "uv", "git", "javac", "curl"):
        assert image.execute("sh", "-c", f"command -v {tool}").returncode != 0, tool
    packages = image.root / "app/.venv/lib/python3.11/site-packages"
    assert not list(packages.glob("*/tests"))
    assert not (image.root / "app" / "tests").exists()
    plugins = image.root / "opt/flink/plugins"
    assert {folder.name for folder in plugins.iterdir()} == {"metrics-prometheus", "s3"}
    for plugin in ("metrics-prometheus", "s3"):
        found = image.execute("sh", "-c", f"test -s /opt/flink/plugins/{plugin}/*.jar")
        assert found.returncode == 0, plugin
    assert not image.healthy(str(free_port()))


def test_a_session_cluster_joins(image: ImageRoot) -> None:
    """A job manager, a task manager, and a client that submits the job to them."""
    cluster = Cluster(image)
    cluster.run("jobmanager", "jobmanager")
    cluster.run("taskmanager", "taskmanager")
    cluster.wait_until_healthy()
    wait_until(lambda: cluster.get("/taskmanagers")["taskmanagers"], 60, "a task manager")
    submitted = image.execute(
        "/docker-entrypoint.sh",
        *("run", "-py", JOB, "--config", "/data/pipeline.toml"),
        *("--set", "output.path=/data/session"),
        environment=cluster.properties("client"),
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr

    def finished() -> bool:
        (job,) = cluster.get("/jobs/overview")["jobs"]
        assert job["state"] in ("CREATED", "INITIALIZING", "RUNNING", "FINISHED"), tail(
            image.log("taskmanager"), 60
        )
        return bool(job["state"] == "FINISHED")

    wait_until(finished, 180, "the job to end")
    by_hand_rows.check(image.data / "session", by_hand.load("request_id"))


def test_an_application_joins(image: ImageRoot) -> None:
    """A job manager that has one job, as Kubernetes starts it."""
    cluster = Cluster(image)
    started = time.monotonic()
    cluster.run("taskmanager", "taskmanager")
    manager = cluster.run(
        "jobmanager",
        *("application", JOB, "--config", "/data/pipeline.toml"),
        *("--set", "output.path=/data/application"),
    )
    output = image.data / "application"

    def visible() -> bool:
        return any(output.glob("samples/**/*.parquet")) or not manager.is_running()

    wait_until(visible, 180, "the first sample")
    print(f"the first samples were there after {time.monotonic() - started:.1f} s")
    wait_until(lambda: not manager.is_running(), 180, "the job manager to end with its job")
    assert running.rows(output, "samples"), tail(image.log("jobmanager"), 60)
    by_hand_rows.check(output, by_hand.load("request_id"))


def test_an_application_goes_on_when_its_job_manager_is_lost(
    image: ImageRoot, tmp_path: Path
) -> None:
    """Another one runs the program again, whose output has rows by then; none is there twice.

    With high availability and an id for the job, as the operator for Kubernetes sets one. Here
    ZooKeeper remembers what Kubernetes would.
    """
    zookeeper = ZooKeeper(tmp_path / "zookeeper", sorted((flink_home() / "lib").glob("*.jar")))
    with KafkaBroker(tmp_path / "kafka") as broker:
        zookeeper.start()
        try:
            _lose_the_job_manager(image, broker, zookeeper)
        finally:
            zookeeper.stop()


def _lose_the_job_manager(image: ImageRoot, broker: KafkaBroker, zookeeper: ZooKeeper) -> None:
    folder = image.data / "lost"
    folder.mkdir()
    story = KafkaStory(broker, folder, "lost", '[actions.click]\nwindow = "5s"\n')
    story.create_topics()
    image.give_data()
    cluster = Cluster(
        image,
        {
            "high-availability.type": "zookeeper",
            "high-availability.zookeeper.quorum": zookeeper.servers,
            "high-availability.cluster-id": "/lost",
            "high-availability.storageDir": "file:///data/lost/ha",
            "$internal.pipeline.job-id": "5a17c4" + "0" * 25 + "1",
        },
    )
    application = (
        *("application", JOB, "--config", "/data/lost/pipeline.toml"),
        *("--set", "output.path=/data/lost/out"),
        *("--set", "runtime.checkpoint_path=/data/lost/checkpoints"),
    )

    def add(seconds: range) -> None:
        story.requests(seconds)
        story.clicks({second: 1 for second in seconds if second % 2})

    add(range(100))
    cluster.run("taskmanager", "taskmanager")
    first = cluster.run("jobmanager", *application)
    wait_until(lambda: len(story.rows()) > 50, 180, "rows")
    process.kill(first)
    add(range(100, 200))
    second = cluster.run("jobmanager", *application)
    wait_until(
        lambda: len(story.rows()) > 180 or not second.is_running(), 180, "rows of the second"
    )
    assert second.is_running(), tail(image.log("jobmanager"), 60)
    assert "goes on from its latest checkpoint" in image.log("jobmanager").read_text()
    rows = story.rows()  # which has each request once
    assert set(rows) == set(range(max(rows) + 1))
