"""The image of the trainer and the services: it trains with servers, and the loop of compose runs.

From the image's own root, which is read-only, as the image's user; see `image_root`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from kafka import KafkaConsumer

from services.kafka_broker import KafkaBroker
from services.process import ProcessId, free_port, tail
from services.waiting import wait_until
from tests import by_hand
from tests.e2e.image_root import ImageRoot, missing
from tests.flink import running

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

CODE = (
    *("configuration", "corrections", "jobs", "online", "presentation", "schemas", "trainer"),
    "udfs",
)
RAY_CLUSTER = running.ROOT / "docker" / "k8s" / "ray-cluster.yaml"
COMPOSE = running.ROOT / "docker" / "compose"
REQUESTS = 20

TRAINER = """
[samples]
pipeline = "/data/joined/_pipeline.toml"
path = "/data/joined"
[train]
servers = 1
[output]
path = "/data/trained"
"""


@pytest.fixture(scope="module")
def joined(image: ImageRoot) -> None:
    """Samples in /data/joined."""
    running.join(by_hand.load("request_id").folder / "pipeline.toml", image.data / "joined")
    (image.data / "trainer.toml").write_text(TRAINER)
    image.give_data()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageRoot]:
    folder = tmp_path_factory.mktemp("image")
    with ImageRoot("sample-stitch-trainer", folder) as image:
        image.skip_unless_it_has(CODE)
        yield image


def test_what_is_in_it(image: ImageRoot) -> None:
    assert image.config["User"] == "9999:9999"
    for place, writable in (("/tmp", True), ("/data", True), ("/app", False)):
        done = image.execute("touch", f"{place}/written")
        assert (done.returncode == 0) == writable, (place, done.stderr)
    for tool in ("gcc", "make", "pip", "uv", "java"):
        assert image.execute("sh", "-c", f"command -v {tool}").returncode != 0, tool


@pytest.mark.usefixtures("joined")
def test_it_trains_with_a_server(image: ImageRoot) -> None:
    done = image.execute("python", "-m", "trainer.train", "--config", "/data/trainer.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((image.data / "trained" / "checkpoints").glob("step-*"))
    assert list((image.data / "trained" / "serving").iterdir())


@pytest.mark.usefixtures("joined")
def test_it_trains_as_the_head_pod_of_kuberay(image: ImageRoot) -> None:
    """The manifest's own command, with a second node beside it, in a network of its own."""
    documents = yaml.load_all(RAY_CLUSTER.read_text(), Loader=yaml.CSafeLoader)
    (cluster,) = (one for one in documents if one["kind"] == "RayCluster")
    (head,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    (script,) = head["args"]
    start, _, train = script.partition("; exec ")
    # what KubeRay asks before it starts a worker, and how it starts one
    worker = "ray health-check --address 127.0.0.1:6379 && " + (
        "ray start --address=127.0.0.1:6379 --num-cpus=2 --node-manager-port=6380"
    )
    train = train.replace("/etc/sample-stitch/", "/data/")
    train += " --set train.address=auto --set output.path=/data/pod && ray stop"
    done = image.execute(*head["command"], f"{start}; {worker}; {train}", alone=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((image.data / "pod" / "checkpoints").glob("step-*"))


def test_the_services_of_compose_rank_and_collect(image: ImageRoot, tmp_path: Path) -> None:
    ports = {"ranking": free_port(), "collector": free_port()}
    with KafkaBroker(tmp_path / "kafka") as broker:
        for topic in ("features", "actions"):
            broker.create_topic(topic, partitions=2)
        folder = image.data / "compose"
        folder.mkdir()
        for path in COMPOSE.glob("*.toml"):
            text = path.read_text().replace("kafka:9092", broker.bootstrap_servers)
            port = ports.get(path.stem, 0)
            (folder / path.name).write_text(
                text.replace("port = 8080", f"port = {port}").replace(
                    "port = 8081", f"port = {port}"
                )
            )
        image.give_data()
        for name, port in ports.items():
            config = f"/data/compose/{name}.toml"
            service = image.run(name, "python", "-m", f"online.{name}", "--config", config)
            wait_until(partial(_answers_or_ended, image, service, port), 120, f"{name} to answer")
            assert service.is_running(), tail(image.log(name), 40)

        addresses = [f"http://127.0.0.1:{port}" for port in ports.values()]
        done = subprocess.run(
            [sys.executable, str(COMPOSE / "application.py"), *addresses, str(REQUESTS)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr + tail(image.log("ranking"), 40)
        ranked = _request_ids(broker, "features", REQUESTS)
        assert len(ranked) == len(set(ranked)) == REQUESTS
        assert set(_request_ids(broker, "actions", 1)) <= set(ranked)


def _answers_or_ended(image: ImageRoot, service: ProcessId, port: int) -> bool:
    return image.healthy(f"{port}/healthz") or not service.is_running()


def _request_ids(broker: KafkaBroker, topic: str, at_least: int) -> list[str]:
    """Of the events of a topic, when it has so many."""
    consumer = KafkaConsumer(
        topic, bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest"
    )
    found: list[str] = []

    def enough() -> bool:
        for records in consumer.poll(timeout_ms=200).values():
            found.extend(json.loads(record.value)["request_id"] for record in records)
        return len(found) >= at_least

    try:
        wait_until(enough, 60, f"{at_least} events of {topic}")
    finally:
        consumer.close()
    return found
