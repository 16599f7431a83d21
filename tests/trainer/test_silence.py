"""What the trainer does about a server, a backup or a coordinator that does not answer.

Sockets are real; who is silent is a socket that nobody reads, or is behind a relay that drops all.
`test_partitions` cuts whole processes off.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import zmq

from services.waiting import wait_until
from tests.trainer import runs
from trainer.run import servers as servers_module
from trainer.run import worker as worker_module
from trainer.run.cluster import Process
from trainer.run.job import job_of
from trainer.run.placement import Placement
from trainer.run.runner import RunError, ServerGoneError
from trainer.run.servers import Servers
from trainer.run.worker import Worker
from trainer.server import channel as channel_module
from trainer.server.channel import ZmqChannel, unbounded

DEADLINE_S = 20.0


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    made = zmq.Context()
    yield made
    made.destroy(linger=0)


class Relay:
    """A TCP proxy for one ZeroMQ address, as a network that can be cut without a word."""

    def __init__(self, to: str) -> None:
        self._to = to.removeprefix("tcp://").split(":")
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.silent, self.dropped = threading.Event(), threading.Event()
        self._open: list[Any] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._server.accept()
            except OSError:
                return
            other = socket.create_connection((self._to[0], int(self._to[1])))
            cut = [self.silent.is_set()]
            self._open += [one, other]
            for source, sink in ((one, other), (other, one)):
                threading.Thread(target=self._copy, args=(source, sink, cut), daemon=True).start()

    def _copy(self, source: Any, sink: Any, cut: list[bool]) -> None:
        try:
            while data := source.recv(65_536):
                # a connection that was cut once stays so, as one that a firewall has forgotten
                cut[0] = cut[0] or self.silent.is_set()
                if cut[0]:
                    self.dropped.set()
                else:
                    sink.sendall(data)
        except OSError:
            pass

    def close(self) -> None:
        for one in (self._server, *self._open):
            one.close()


@pytest.fixture
def relays() -> Iterator[Callable[[str], Relay]]:
    made: list[Relay] = []

    def make(to: str) -> Relay:
        made.append(Relay(to))
        return made[-1]

    yield make
    for relay in made:
        relay.close()


def test_a_connection_that_is_silently_dead_is_replaced(
    context: zmq.Context[Any], relays: Callable[[str], Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "_HEARTBEAT_S", 1)
    monkeypatch.setattr(channel_module, "_BROKEN_AFTER_S", 1)
    server = unbounded(context, zmq.ROUTER)
    port = server.bind_to_random_port("tcp://127.0.0.1")
    relay = relays(f"tcp://127.0.0.1:{port}")
    channel = ZmqChannel(context)
    channel.connect(0, relay.address)
    channel.send(0, [b"before"])
    assert server.poll(int(DEADLINE_S * 1e3))
    assert server.recv_multipart()[-1] == b"before"
    relay.silent.set()
    channel.send(0, [b"lost"])
    assert relay.dropped.wait(DEADLINE_S)
    relay.silent.clear()

    def arrives() -> bool:
        # what is sent until the silence is noticed is lost, too
        channel.send(0, [b"later"])
        return bool(server.poll(500))

    wait_until(arrives, DEADLINE_S, "a message")
    assert server.recv_multipart()[-1] == b"later"
    channel.close()


class NoneEnds:
    """A cluster whose processes never end; `killed`: those that were to."""

    def __init__(self) -> None:
        self.killed: list[int] = []

    def start_server(self, number: int) -> Process:
        return Process(number, None, None)

    def is_up(self, process: Process) -> bool:
        return True

    def ended(self, processes: Iterable[Process]) -> list[Process]:
        return []

    def kill(self, process: Process) -> None:
        self.killed.append(process.number)


def test_a_server_that_does_not_answer_a_command_counts_as_ended(
    context: zmq.Context[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers_module, "ANSWER_DEADLINE_S", 0.2)
    cluster = NoneEnds()
    servers = Servers(cast(Any, cluster), context)
    mute = unbounded(context, zmq.ROUTER)
    process = Process(0, None, None)
    process.address = f"tcp://127.0.0.1:{mute.bind_to_random_port('tcp://127.0.0.1')}"
    servers.running[0] = process
    servers._channel.connect(0, process.address)
    with pytest.raises(ServerGoneError):
        servers.tell(0, -1, "route", epoch=1, backups={})
    assert cluster.killed == [0]
    assert servers.ended() == [process], "so its shards go on from their backups"
    assert servers.ended() == []
    assert servers.running == {}


class EndsAtStart(NoneEnds):
    """A cluster in which these servers end before they are up."""

    def __init__(self, *ends: int) -> None:
        super().__init__()
        self.ends = ends

    def is_up(self, process: Process) -> bool:
        if process.number in self.ends:
            raise RunError(f"server {process.number} did not start: killed")
        process.address = "tcp://127.0.0.1:9"
        return True


def test_a_server_that_ends_while_it_starts_is_replaced(context: zmq.Context[Any]) -> None:
    servers = Servers(cast(Any, EndsAtStart(0, 1, 2, 3, 5, 6, 7, 8)), context)
    servers.start()
    assert servers.await_all() == [4]
    servers.start()
    assert servers.await_all() == [9], "a server that came up starts the count anew"
    assert (servers.count, list(servers.running)) == (2, [4, 9])
    servers.stop()


def test_of_servers_that_all_end_while_they_start_the_fifth_ends_the_run(
    context: zmq.Context[Any],
) -> None:
    servers = Servers(cast(Any, EndsAtStart(*range(10))), context)
    servers.start()
    with pytest.raises(RunError, match="server 4 did not start: killed"):
        servers.await_all()
    servers.stop()


@pytest.mark.parametrize("how", ["closed", "silent"])
def test_a_worker_without_its_coordinator_ends(
    how: str,
    context: zmq.Context[Any],
    relays: Callable[[str], Relay],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(channel_module, "_HEARTBEAT_S", 1)
    monkeypatch.setattr(worker_module, "CUT_OFF_AFTER_S", 1.0)
    control = unbounded(context, zmq.ROUTER)
    relay = relays(f"tcp://127.0.0.1:{control.bind_to_random_port('tcp://127.0.0.1')}")
    job = job_of(runs.configured(runs.samples(tmp_path), tmp_path / "model"))
    thread = threading.Thread(target=Worker(job, 0, relay.address).run, daemon=True)
    thread.start()
    assert control.poll(int(DEADLINE_S * 1e3)), "it is ready"
    if how == "closed":
        relay.close()
    else:
        relay.silent.set()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


# -- where replicas are ----------------------------------------------------------------------------


def placed(primaries: dict[int, int], backups: dict[int, int | None]) -> Placement:
    return Placement(4, primaries, backups)


def test_servers_that_do_not_reach_each_other_share_no_shard() -> None:
    before = placed({0: 10, 1: 11, 2: 12}, {0: 11, 1: 10, 2: 10})
    after = before.apart(11, 10)
    assert after == Placement(5, before.primaries, {0: None, 1: None, 2: 10})
    pair = frozenset((10, 11))
    assert after.repairs([10, 11, 12], [pair]) == {0: 12, 1: 12}
    assert after.repairs([10, 11], [pair]) == {}
    assert after.repairs([10, 11]) == {0: 11, 1: 10}


def test_a_pause_is_worth_it_only_for_a_server_that_could_hold_the_backup() -> None:
    bare = placed({0: 10}, {0: None})
    pair = frozenset((10, 11))
    assert bare.has_spare([10, 11])
    assert not bare.has_spare([10, 11], [pair])
    assert bare.has_spare([10, 11, 12], [pair])
    assert not bare.has_spare([10])
    assert not placed({0: 10}, {0: 11}).has_spare([10, 11, 12])
