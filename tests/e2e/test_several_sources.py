"""Several sources a stream over a real broker: one that lags, one that is added and taken out over
a savepoint, and all of them joined again from their archive. The rows are those of the oracle.
"""

from __future__ import annotations

import math
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from jobs.pipeline import preflight
from jobs.pipeline.config import ConfigError, load
from services.kafka_broker import KafkaBroker
from services.process import free_port
from services.waiting import wait_until
from tests import oracle
from tests.e2e.local_job import started
from tests.e2e.several_sources import (
    FAR,
    REQUESTS,
    RULES,
    START,
    TOPICS,
    Shop,
    check_rows,
    number,
    traffic,
)
from tests.e2e.test_metrics import scraped
from tests.flink import running
from tests.timeline import Action, Request, Timeline, Watermark

DEADLINE_S = 300
WITHOUT_ORDERS = tuple(name for name in TOPICS if name != "actions.orders")


def visible(job: subprocess.Popen[bytes], log: Path, output: Path) -> Callable[[int], list[Any]]:
    """Tells the samples of a job that must be running, when there are so many."""

    def samples(count: int) -> list[Any]:
        assert job.poll() is None, log.read_text()
        found = running.rows(output, "samples")
        return found if len(found) >= count else []

    return samples


def stop(job: subprocess.Popen[bytes]) -> None:
    job.send_signal(signal.SIGTERM)
    job.wait(timeout=90)


def newest(port: int) -> dict[str, float]:
    """The newest event of each source (epoch ms), as the subtask tells it that is behind."""
    name = "flink_taskmanager_job_task_operator_source_newest_event_ms"
    found: dict[str, float] = {}
    for labels, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", scraped(port), re.MULTILINE):
        (source,) = re.findall(r'(?:^|,)source="([^"]*)"', labels)
        found[source] = min(float(value), found.get(source, math.inf))
    return found


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_an_order_system_that_lags_makes_no_negatives(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    # all but the order system are told to their ends at once, and then hold no time back
    shop = Shop(kafka_broker, "lagging", idle="5s")
    requests, actions = traffic()
    truth = oracle.expected(Timeline((*requests, *actions), FAR), RULES)
    # the order system has told of the first third
    told = START + REQUESTS * 1_000 // 3
    orders = sorted(
        (a for a in actions if a.action == "purchase"), key=lambda action: action.event_time
    )
    first = [a for a in orders if a.event_time <= told]
    rest = [a for a in orders if a.event_time > told]
    clicks = [a for a in actions if a.action == "click"]
    shop.tell([*requests, *clicks, *first], ended=WITHOUT_ORDERS)
    orders_topic = shop.topic("actions.orders")
    producer = KafkaProducer(bootstrap_servers=shop.servers)
    producer.send(orders_topic, value=b'{"broken', timestamp_ms=START).get(timeout=30)
    producer.close()

    config, output = shop.configuration(tmp_path / "pipeline.toml"), tmp_path / "out"
    early = [row for row in truth.rows if row.event_time + 60_000 < told - 6_000]
    log, port = tmp_path / "job.log", free_port()
    arguments = ["--config", str(config), "--set", f"runtime.metrics_port={port}"]
    with started(arguments, log) as job:
        rows = visible(job, log, output)
        before = wait_until(lambda: rows(len(early)), DEADLINE_S, "the first samples", every_s=0.5)
        assert max(row["event_time"] for row in before) + 60_000 <= told
        shown = dict.fromkeys(WITHOUT_ORDERS, FAR)
        # told in steps of a second
        shown["actions.orders"] = first[-1].event_time // 1_000 * 1_000
        wait_until(lambda: newest(port) == shown, 60, f"{shown} in the metrics", every_s=0.5)
        stop(job)
    again = ["--config", str(config), "--restore", "latest", "--set", "runtime.parallelism=1"]
    with started(again, log) as job:
        shop.tell(rest, ended=["actions.orders"])
        rows = visible(job, log, output)
        wait_until(lambda: rows(len(truth.rows)), DEADLINE_S, "all samples", every_s=0.5)

    check_rows(output, truth)
    (bad,) = (r for r in running.rows(output, "rejected") if r["reason"] == "broken_json")
    assert (bad["stream"], bad["origin"]) == ("actions", orders_topic)
    audit = running.run_module("tools.audit", "--config", str(config))
    assert audit.returncode == 0, audit.stdout + audit.stderr


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_a_source_is_added_and_taken_out_over_a_savepoint(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    shop = Shop(kafka_broker, "added")
    requests, actions = traffic()
    clicks = [a for a in actions if a.action == "click"]
    # The job settles the first requests before it knows the order system, which has orders of them.
    # None of the others is settled by then of which it has any.
    half, settled = REQUESTS // 3, START + 70_000
    orders = [a for a in actions if a.action == "purchase" and not 10 <= number(a) < 40]
    all_but_orders: list[Request | Action] = [*requests, *clicks]
    known = [event for event in all_but_orders if number(event) < half]
    rest = [event for event in all_but_orders if number(event) >= half]
    orders.sort(key=lambda action: action.event_time)
    truth = oracle.expected(Timeline((*known, Watermark(settled), *orders, *rest), FAR), RULES)
    late = {one.sample[0] for one in truth.late if one.reason == "after_settle"}
    assert late == {f"r{i}" for i in (1, 2, 4, 6, 8, 9)}

    config = shop.configuration(tmp_path / "before.toml", WITHOUT_ORDERS)
    output, log = tmp_path / "out", tmp_path / "job.log"
    shop.tell(known)
    with started(["--config", str(config)], log) as job:
        rows = visible(job, log, output)
        early = [row for row in truth.rows if row.event_time + 60_000 <= settled]
        wait_until(lambda: rows(len(early)), DEADLINE_S, "the first samples", every_s=0.5)
        stop(job)
    shop.tell([*orders, *rest], ended=tuple(TOPICS))
    with_orders = shop.configuration(tmp_path / "after.toml")
    with started(["--config", str(with_orders), "--restore", "latest"], log) as job:
        rows = visible(job, log, output)
        wait_until(lambda: rows(len(truth.rows)), DEADLINE_S, "all samples", every_s=0.5)
        stop(job)
    check_rows(output, truth)
    # nothing was read twice: that would be rejected as a duplicate, as the last records are
    rejected = running.rows(output, "rejected")
    assert [row for row in rejected if b'"r-far"' not in row["raw"]] == []

    again = ["--config", str(config), "--restore", "latest"]
    refused = running.run_module("jobs.join_samples", *again)
    assert refused.returncode == 2, refused.stderr
    assert "has a position in sources.actions.orders" in refused.stderr.strip().splitlines()[-1]
    # after all is told of the others, time goes on without the orders, which say no more
    more_requests, more_actions = traffic(FAR + 1_000)
    shop.tell([more_requests[0], more_actions[0]], ended=WITHOUT_ORDERS, far=FAR + 3_600_000)
    again += ["--set", "flink.execution.state-recovery.ignore-unclaimed-state=true"]
    with started(again, log) as job:
        rows = visible(job, log, output)

        def row() -> list[Any]:
            return [row for row in rows(1) if row["event_time"] == FAR + 1_000]

        one, other = wait_until(row, DEADLINE_S, "a request after the orders", every_s=0.5)
        assert "the position in sources.actions.orders is dropped" in log.read_text()
    assert {(of["label_click"], of["label_purchase"]) for of in (one, other)} == {(1, 0), (0, 0)}


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_the_archive_of_several_sources_is_joined_again(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    shop = Shop(kafka_broker, "kept")
    requests, actions = traffic()
    truth = oracle.expected(Timeline((*requests, *actions), FAR), RULES)
    shop.tell([*requests, *actions], ended=tuple(TOPICS))
    config = shop.configuration(tmp_path / "pipeline.toml")
    ends = [part for name in TOPICS for part in ("--set", f"sources.{name}.end=latest")]
    kept = running.run_module("jobs.archive_events", "--config", str(config), *ends)
    assert kept.returncode == 0, kept.stderr
    for name, partitions in TOPICS.items():
        folder = name.replace(".", "-")
        records = running.rows(tmp_path / "kept", folder)
        assert {record["topic"] for record in records} == {shop.topic(name)}
        assert {record["partition"] for record in records} == {*range(partitions)}
    again = shop.configuration(tmp_path / "again.toml", archive="kept")
    running.join(again, tmp_path / "out")
    check_rows(tmp_path / "out", truth)
    audit = running.run_module("tools.audit", "--config", str(again))
    assert audit.returncode == 0, audit.stdout + audit.stderr


def test_two_sources_of_one_topic_are_told_of(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    shop = Shop(kafka_broker, "twice")
    path = shop.configuration(tmp_path / "pipeline.toml")
    text = path.read_text()
    for name, pattern in (("clicks", "twice-actions-.*"), ("orders", ".*-orders")):
        given = f'topic = "{shop.topic(f"actions.{name}")}"'
        assert given in text
        text = text.replace(given, f'topic_pattern = "{pattern}"')
    path.write_text(text)
    port = shop.servers.rpartition(":")[2]
    by_another_name = f"sources.actions.orders.bootstrap_servers=localhost:{port}"
    for overrides in ([], [by_another_name]):
        with pytest.raises(ConfigError, match="'twice-actions-orders' is read by so"):
            preflight.check(load(path, overrides))
