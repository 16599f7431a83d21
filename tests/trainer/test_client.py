"""Parameters as a worker sees them, over a channel that loses, delays, repeats and reorders."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from trainer.server import wire
from trainer.server.client import RemoteParameters, ServerError
from trainer.server.parameters import LocalParameters
from trainer.server.ring import arcs_of, owners
from trainer.server.routing import Routing
from trainer.server.shard import Pulled, Push, Shard
from trainer.spec import AdaGrad, Ftrl, ModelSpec, Segment, Slot, TableSpec

NODES = 8
WORKER = 4
SPEC = ModelSpec(
    "fm",
    ("click",),
    (Slot("a", "a", "category"), Slot("b", "b", "category", 1)),
    (
        TableSpec("ids", (Segment("linear", 1, Ftrl()), Segment("embedding", 2, AdaGrad()))),
        TableSpec("wide", (Segment("linear", 1, Ftrl()),), admit_after=2),
    ),
    embedding=2,
)
DENSE = np.arange(5, dtype=np.float32)


def value(step: int, table: int, keys: Any) -> Any:
    """What a key has as of a step, (keys, width): its own number in each column."""
    own = (keys % np.uint64(1 << 16)).astype(np.float32) + 100_000 * table + 1_000_000 * step
    return own[:, None] + np.arange(SPEC.tables[table].width, dtype=np.float32)


def is_known(keys: Any) -> Any:
    return (keys % np.uint64(3) == 0).astype(np.uint8)


def routing(epoch: int, primaries: dict[int, int], dense: int | None = None) -> Routing:
    return Routing(epoch, primaries, NODES, dense)


@dataclass
class Servers:
    """A channel to servers which answer by `value`, and note pushes by shard and mark.

    `faults`: of 1, how often a message or an answer is late, and comes again.
    """

    current: Routing
    seed: int = 0
    faults: float = 0.0
    #: The epoch that each server has heard of; one that is not here is lost, with all that it sent.
    heard: dict[int, int] = field(default_factory=dict)
    pushed: dict[tuple[int, int], list[Push]] = field(default_factory=dict)
    sent: list[tuple[int, wire.Request]] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    waited_for: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.heard = self.heard or dict.fromkeys(
            self.current.primaries.values(), self.current.epoch
        )
        self._coming: list[tuple[int, Any]] = []
        self._answers: list[tuple[int, Any]] = []

    def connect(self, server: int, address: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def send(self, server: int, frames: Sequence[Any]) -> None:
        self.sent.append((server, wire.unpack_request(frames)))
        self._coming.append((server, [bytes(frame) for frame in frames]))

    def receive(self, timeout_ms: int, also: Any = None) -> list[Any]:
        assert len(self.waited_for) < 5_000, "it waits in vain"
        self.waited_for.append(also)
        for server, frames in self._some(self._coming):
            if server in self.heard:
                self._answers.append((server, self._answer(server, frames)))
        some = self._some(self._answers)
        return [
            [memoryview(frame) for frame in frames]
            for server, frames in some
            if server in self.heard
        ]

    def _some(self, waiting: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        """Those that have come, in any order; some of them will come again."""
        late = [one for one in waiting if self.rng.random() < self.faults]
        now = [one for one in waiting if not any(one is other for other in late)]
        self.rng.shuffle(now)
        waiting[:] = late + [one for one in now if self.rng.random() < self.faults / 2]
        return now

    def _answer(self, server: int, frames: Sequence[Any]) -> Any:
        request = wire.unpack_request(frames)
        assert isinstance(request, wire.PullRequest | wire.PushRequest)
        epoch = self.heard[server]
        if request.epoch != epoch or self.current.primaries[request.shard] != server:
            reply = wire.Reply(request.id, request.shard, epoch, wire.OTHER_EPOCH)
            return [bytes(frame) for frame in wire.pack(reply)]
        error = self.errors.get(request.shard)
        reply = wire.Reply(request.id, request.shard, epoch, error)
        more: wire.Frames = []
        if isinstance(request, wire.PushRequest):
            mark = request.shard, request.sequence
            self.pushed.setdefault(mark, []).append(wire.read_push(request, frames, SPEC))
        elif error is None:
            tables = [
                (value(request.step, t, keys), is_known(keys))
                for t, keys in enumerate(wire.read_pull(frames)[0])
            ]
            more = wire.pulled_frames(Pulled(tables, DENSE if request.dense else None))
        return [bytes(frame) for frame in wire.pack(reply, more)]

    def move(self, primaries: dict[int, int]) -> None:
        """A new epoch, of which no server has heard yet; those that are in no routing are lost."""
        self.current = routing(self.current.epoch + 1, primaries, self.current.dense)
        self.heard = {s: e for s, e in self.heard.items() if s in primaries.values()}
        for server in primaries.values():
            self.heard.setdefault(server, 0)

    def tell(self) -> None:
        self.heard = dict.fromkeys(self.heard, self.current.epoch)


def client_of(servers: Servers, listen: Callable[[], None] = lambda: None) -> RemoteParameters:
    made = RemoteParameters(SPEC, WORKER, servers, listen, "news")
    made.reroute(servers.current)
    return made


def some_keys(rng: np.random.Generator, size: int) -> Any:
    keys = rng.integers(1, 1 << 64, size, np.uint64)
    return rng.permutation(np.unique(keys))


def assert_pulled(pulled: Pulled, step: int, keys: Sequence[Any]) -> None:
    for t, (values, known) in enumerate(pulled.tables):
        np.testing.assert_array_equal(values, value(step, t, keys[t]))
        np.testing.assert_array_equal(known, is_known(keys[t]))


def assert_pushed(
    servers: Servers, sequence: int, step: int, keys: Sequence[Any], gradients: Sequence[Any]
) -> None:
    """To each shard its keys, as often as it liked; counts are the keys' last digits."""
    ring = owners(servers.current.shards, NODES)
    for shard in servers.current.shards:
        for push in servers.pushed[shard, sequence]:
            assert (push.worker, push.sequence, push.step, push.now) == (WORKER, sequence, step, 77)
            for table, k, g in zip(push.tables, keys, gradients, strict=True):
                here = ring[arcs_of(k)] == shard
                np.testing.assert_array_equal(table.keys, k[here])
                np.testing.assert_array_equal(table.gradients, g[here])
            counts = push.tables[1].counts
            assert push.tables[0].counts is None
            assert counts is not None
            np.testing.assert_array_equal(counts, counts_of(push.tables[1].keys))
            assert (push.dense is not None) == (shard == servers.current.dense)


def counts_of(keys: Any) -> Any:
    return (keys % np.uint64(10)).astype(np.uint32)


# -- without faults --------------------------------------------------------------------------------


@pytest.mark.parametrize("dense", [None, 0, 2])
@pytest.mark.parametrize("sizes", [(0, 0), (1, 0), (0, 3), (500, 40)])
def test_each_key_gets_its_own_value_in_the_callers_order(
    sizes: tuple[int, int], dense: int | None
) -> None:
    rng = np.random.default_rng(1)
    servers = Servers(routing(1, {0: 10, 1: 11, 2: 10, 5: 12}, dense))
    parameters = client_of(servers)
    keys = [some_keys(rng, size) for size in sizes]
    pulled = parameters.pull(3, keys)
    assert_pulled(pulled, 3, keys)
    assert (pulled.dense is None) == (dense is None)
    gradients = [rng.normal(size=v.shape).astype(np.float32) for v, _ in pulled.tables]
    vector = None if dense is None else DENSE
    parameters.push(9, 3, 77, gradients, [None, counts_of(keys[1])], vector)
    assert_pushed(servers, 9, 3, keys, gradients)
    assert all(len(pushes) == 1 for pushes in servers.pushed.values())


def test_only_shards_with_keys_are_asked_and_all_are_pushed_to() -> None:
    servers = Servers(routing(1, {0: 10, 1: 11, 2: 12}, 2))
    parameters = client_of(servers)
    ring = owners([0, 1, 2], NODES)
    keys = some_keys(np.random.default_rng(1), 200)
    mine = [keys[ring[arcs_of(keys)] == 0], keys[:0]]
    parameters.pull(0, mine)
    assert sorted(server for server, _ in servers.sent) == [10, 12], "12 has the dense parameters"
    servers.sent.clear()
    zeros = [
        np.zeros((len(k), t.width), np.float32) for k, t in zip(mine, SPEC.tables, strict=True)
    ]
    parameters.push(0, 0, 77, zeros, [None, counts_of(mine[1])], DENSE)
    assert sorted(server for server, _ in servers.sent) == [10, 11, 12]


def test_waiting_ends_when_there_is_news() -> None:
    servers = Servers(routing(1, {0: 10}))
    client_of(servers).pull(0, [some_keys(np.random.default_rng(1), 3)] * 2)
    assert set(servers.waited_for) == {"news"}


@pytest.mark.parametrize("faults", [0.0, 0.5])
def test_other_work_is_done_once_after_all_is_sent_and_before_an_answer_is_waited_for(
    faults: float,
) -> None:
    servers = Servers(routing(1, {0: 10, 1: 11}, 1), seed=2, faults=faults)
    parameters = client_of(servers)
    keys = [some_keys(np.random.default_rng(1), 30)] * 2
    done: list[tuple[int, int]] = []

    def meanwhile() -> None:
        done.append((len(servers.sent), len(servers.waited_for)))

    pulled = parameters.pull(1, keys, meanwhile=meanwhile)
    assert done == [(2, 0)]
    assert_pulled(pulled, 1, keys)
    waited = len(servers.waited_for)
    gradients = [np.zeros_like(values) for values, _ in pulled.tables]
    counts = [None, counts_of(keys[1])]
    parameters.push(0, 1, 77, gradients, counts, DENSE, meanwhile=meanwhile)
    assert done == [(2, 0), (4, waited)]
    assert_pushed(servers, 0, 1, keys, gradients)


def test_an_older_routing_is_not_taken() -> None:
    servers = Servers(routing(5, {0: 10, 1: 11}))
    parameters = client_of(servers)
    for epoch in (4, 5):
        parameters.reroute(routing(epoch, {0: 99}))
    keys = [some_keys(np.random.default_rng(1), 30)] * 2
    assert_pulled(parameters.pull(1, keys), 1, keys)
    assert {server for server, _ in servers.sent} == {10, 11}


def test_other_shards_get_other_keys() -> None:
    servers = Servers(routing(5, {0: 10, 1: 11}))
    parameters = client_of(servers)
    keys = [some_keys(np.random.default_rng(1), 300)] * 2
    parameters.pull(1, keys)
    servers.move({0: 10, 1: 11, 2: 12})
    servers.tell()
    parameters.reroute(servers.current)
    servers.sent.clear()
    assert_pulled(parameters.pull(2, keys), 2, keys)
    assert {server for server, _ in servers.sent} == {10, 11, 12}


# -- with faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(150))
def test_values_and_pushes_arrive_whatever_happens_on_the_way(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = routing(1, {0: 10, 1: 11, 2: 12}, 1)
    servers = Servers(first, seed=seed, faults=float(rng.choice([0.2, 0.5, 0.8])))
    moves = [{0: 10, 1: 10, 2: 12}, {0: 10, 1: 10, 2: 10}]

    def listen() -> None:
        # the coordinator loses a server, tells the others, then this worker; at its leisure
        if moves and servers.rng.random() < 0.1:
            servers.move(moves.pop(0))
        if servers.rng.random() < 0.3:
            servers.tell()
        if servers.rng.random() < 0.2:
            parameters.reroute(servers.current)

    parameters = client_of(servers, listen)
    for sequence in range(6):
        keys = [some_keys(rng, 40), some_keys(rng, int(rng.integers(0, 9)))]
        pulled = parameters.pull(sequence, keys)
        assert_pulled(pulled, sequence, keys)
        assert pulled.dense is not None
        gradients = [rng.normal(size=v.shape).astype(np.float32) for v, _ in pulled.tables]
        parameters.push(sequence, sequence, 77, gradients, [None, counts_of(keys[1])], DENSE)
        assert_pushed(servers, sequence, sequence, keys, gradients)


def test_the_schedules_of_these_tests_have_the_faults() -> None:
    servers = Servers(routing(1, {0: 10, 1: 11}), seed=3, faults=0.6)
    parameters = client_of(servers)
    keys = [some_keys(np.random.default_rng(1), 30)] * 2
    for sequence in range(20):
        pulled = parameters.pull(sequence, keys)
        gradients = [v for v, _ in pulled.tables]
        parameters.push(sequence, sequence, 77, gradients, [None, counts_of(keys[1])], None)
    assert max(len(pushes) for pushes in servers.pushed.values()) > 1, "some came again"
    assert len(servers.waited_for) > 80, "and many were late"


def test_what_was_sent_is_sent_elsewhere_when_the_routing_changes() -> None:
    servers = Servers(routing(1, {0: 10, 1: 11}))

    def listen() -> None:
        if servers.current.epoch == 1:
            servers.move({0: 10, 1: 10})
            servers.tell()
            parameters.reroute(servers.current)

    parameters = client_of(servers, listen)
    del servers.heard[11]
    keys = [some_keys(np.random.default_rng(1), 60)] * 2
    assert_pulled(parameters.pull(1, keys), 1, keys)
    where = [
        (server, r.shard, r.epoch) for server, r in servers.sent if not isinstance(r, wire.Command)
    ]
    assert where == [(10, 0, 1), (11, 1, 1), (10, 1, 2)], "what was answered is not sent again"


def test_one_that_has_not_heard_of_the_epoch_is_asked_until_it_has() -> None:
    servers = Servers(routing(4, {0: 10}), heard={10: 3})
    looks = iter(range(100))

    def listen() -> None:
        if next(looks) == 5:
            servers.tell()

    keys = [some_keys(np.random.default_rng(1), 5)] * 2
    assert_pulled(client_of(servers, listen).pull(1, keys), 1, keys)
    assert len(servers.sent) == 7
    assert len({r.id for _, r in servers.sent}) == 7, "each under a number of its own"


def test_one_that_is_ahead_is_asked_again_when_this_worker_has_heard_of_it_too() -> None:
    servers = Servers(routing(4, {0: 10}))
    looks = iter(range(100))

    def listen() -> None:
        if next(looks) == 5:
            parameters.reroute(servers.current)

    parameters = client_of(servers, listen)
    servers.move({0: 10})
    servers.tell()
    keys = [some_keys(np.random.default_rng(1), 5)] * 2
    assert_pulled(parameters.pull(1, keys), 1, keys)
    assert [r.epoch for _, r in servers.sent if isinstance(r, wire.PullRequest)] == [4, 5]


@pytest.mark.parametrize("faults", [0.0, 0.5])
def test_an_error_of_a_server_is_raised(faults: float) -> None:
    servers = Servers(routing(1, {0: 10, 1: 11}), faults=faults, errors={1: "KeyError: 'x'"})
    parameters = client_of(servers)
    keys = [some_keys(np.random.default_rng(1), 60)] * 2
    with pytest.raises(ServerError, match="shard 1: KeyError: 'x'"):
        parameters.pull(1, keys)
    servers.errors.clear()
    assert_pulled(parameters.pull(2, keys), 2, keys)


def test_who_leaves_while_waiting_can_begin_anew() -> None:
    """A rollback: late answers are not taken for those of what comes next."""

    class LeftError(Exception):
        pass

    servers = Servers(routing(1, {0: 10, 1: 11}), seed=5, faults=0.9)
    leave = True

    def listen() -> None:
        if leave:
            raise LeftError

    parameters = client_of(servers, listen)
    keys = [some_keys(np.random.default_rng(1), 60)] * 2
    with pytest.raises(LeftError):
        parameters.pull(1, keys)
    leave = False
    fewer = [k[:7] for k in keys]
    assert_pulled(parameters.pull(2, fewer), 2, fewer)


def test_what_is_not_answered_is_sent_again_and_ever_more_rarely() -> None:
    servers = Servers(routing(1, {0: 10, 1: 11}))
    servers.heard.pop(11)  # what it gets is lost
    now = 0.0
    silent: list[tuple[float, int]] = []

    def listen() -> None:
        nonlocal now
        now += 1.0
        if len(silent) == 4:
            servers.heard[11] = 1

    parameters = RemoteParameters(
        *(SPEC, WORKER, servers, listen, None),
        silent=lambda shard: silent.append((now, shard)),
        clock=lambda: now,
    )
    parameters.reroute(servers.current)
    keys = [some_keys(np.random.default_rng(1), 60)] * 2
    assert_pulled(parameters.pull(1, keys), 1, keys)
    assert silent == [(10, 1), (30, 1), (70, 1), (130, 1), (190, 1)]
    assert [server for server, _ in servers.sent] == [10, *[11] * 6]


# -- in this process -------------------------------------------------------------------------------


def test_a_shard_in_this_process_is_the_same_to_a_worker() -> None:
    shard = Shard(SPEC, contributions=None, has_dense=False)
    parameters = LocalParameters(shard)
    rng = np.random.default_rng(1)
    keys = [some_keys(rng, 5), some_keys(rng, 4)]
    before = parameters.pull(0, keys)
    assert [values.shape for values, _ in before.tables] == [(5, 3), (4, 1)]
    assert not any(known.any() for _, known in before.tables)
    gradients = [np.ones_like(values) for values, _ in before.tables]
    counts = np.array([1, 2, 2, 1], np.uint32)
    parameters.push(0, 0, 5, gradients, [None, counts], None)
    parameters.push(0, 0, 5, gradients, [None, counts], None)
    after = parameters.pull(0, keys)
    assert [known.tolist() for _, known in after.tables] == [[1] * 5, [0, 1, 1, 0]]
    assert (after.tables[0][0] != before.tables[0][0]).all()
    assert shard.marks[0].below == 1
