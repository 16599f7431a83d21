"""A real broker and a real cluster, one of each for all tests, on free ports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.flink_cluster import FlinkCluster
from tests.e2e.secured import SecuredBroker
from tests.e2e.secured_topics import fill


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """A running broker without topics; tests use topic names of their own."""
    with SecuredBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="session")
def secured_topics(kafka_broker: SecuredBroker) -> SecuredBroker:
    """The same broker with the topics of `tests.e2e.secured_topics`."""
    fill(kafka_broker)
    return kafka_broker


@pytest.fixture(scope="session")
def flink_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    """A running session cluster of two task managers with one slot each.

    A test that takes something away from it (kills a task manager) gives it back.
    """
    # how soon a dead task manager is missed; until then, jobs are restarted on it in vain
    settings = {
        "heartbeat.interval": "2 s",
        # how old the metrics may be that tests wait for; 10 s otherwise
        "metrics.fetcher.update-interval": "500 ms",
    }
    folder = tmp_path_factory.mktemp("flink")
    with FlinkCluster(folder, task_managers=2, settings=settings) as cluster:
        yield cluster
