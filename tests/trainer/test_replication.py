"""Servers, workers and a coordinator in memory: what was answered is kept, and counts once.

Hosts and clients are the real ones. Messages wait in a queue for each pair of a sender and a
receiver, as over TCP, and a seeded scheduler decides which queue is next, which worker goes on, and
when a server or a worker is lost. What a lost one had sent arrives up to some message, and maybe
after what others have sent since. The coordinator uses the real placement and server commands.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.trainer import bits, history
from tests.trainer.history import Ack, Note, PullBegins, PullEnds, PushBegins, PushEnds
from trainer.config.sections import StepsPer
from trainer.run.placement import Placement
from trainer.run.runner import LostShardError
from trainer.run.server_commands import ServerCommands
from trainer.server import client, shard_file, wire
from trainer.server.client import RemoteParameters, ServerError
from trainer.server.host import Answer, Forward, Host
from trainer.server.ring import ARCS, arcs_of, owners
from trainer.server.routing import Routing
from trainer.server.shard import Marks, Push, Shard, TablePush
from trainer.spec import AdaGrad, Ftrl, ModelSpec, Segment, Slot, TableSpec

SEEDS = range(60)
#: Some faults show in few runs.
MORE_SEEDS = range(200)
NODES = 8
#: A test with seeds is one of both: every other seed.
STEPS: tuple[StepsPer, ...] = ("batch", "sample")
#: The place among a batch's keys of one that every batch has.
EACH = 1
#: Seconds of a run; only waiting takes time.
MOST_S = 6_000.0

#: Under FTRL a row holds the sum of the squares of its gradients: with gradients of 1, how often it
#: was pushed, whatever the order. The embeddings' values depend on everything.
SPEC = ModelSpec(
    "fm",
    ("click",),
    (Slot("a", "a", "category"), Slot("b", "b", "category", 1)),
    (
        TableSpec("counted", (Segment("linear", 1, Ftrl()),)),
        TableSpec("embedded", (Segment("embedding", 2, AdaGrad(), scale=0.1),)),
    ),
    embedding=2,
)


def keys_of(*numbers: int) -> Any:
    """Keys over the whole ring; never 0."""
    return np.array(numbers, np.uint64) * np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, order=True)
class Batch:
    """A worker's batch: a key of its own, and some that others have too."""

    worker: int
    sequence: int

    @property
    def keys(self) -> list[Any]:
        own = 1000 + 100 * self.worker + self.sequence
        shared = (1, 2 + self.sequence % 3, 5 + self.worker % 2)
        return [keys_of(own, *shared), keys_of(9, *shared)]

    def pushed(self, steps: StepsPer, pulled: Sequence[Any]) -> list[Any]:
        """1 for each key; of an embedding, what depends on the values that were pulled.

        For a step per sample: n has grown by 1.
        """
        counted, embedded = np.ones_like(pulled[0]), pulled[1] / 2 + np.float32(0.1 + self.worker)
        if steps == "sample":
            counted[:, 0], embedded[:, 2:] = 0.0, 1.0
        return [counted, embedded]

    @property
    def samples(self) -> list[Any]:
        """How many of its samples have each key. Of the first table none has any weight: what is
        counted is not to be divided.
        """
        counts = (np.arange(len(keys), dtype=np.uint32) * n for n, keys in enumerate(self.keys))
        return [of + np.uint32(of.any()) for of in counts]


@cache
def shown_by(gradient: float) -> dict[float, int]:
    """How often a key was pushed with this gradient, by its weight."""
    shard, keys = Shard(SPEC, contributions=None, has_dense=False), [keys_of(1), keys_of()]
    found = {}
    for number in range(100):
        found[float(shard.pull(0, keys).tables[0][0][0, 0])] = number
        tables = [
            TablePush(k, np.full((len(k), table.width), gradient, np.float32), None)
            for k, table in zip(keys, SPEC.tables, strict=True)
        ]
        shard.push(Push(0, number, 0, 0, tables, None))
    assert len(found) == 100
    return found


# -- workers ---------------------------------------------------------------------------------------


class Lost(BaseException):
    """The process is gone."""


class Coroutine:
    """A function that runs only while it is resumed, until it waits: the client blocks."""

    def __init__(self, body: Callable[[], None]) -> None:
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()
        self._body, self._lost, self._over = body, False, False
        self._error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self._lost:
                self._body()
        except Lost:
            pass
        except BaseException as error:
            self._error = error
        self._over = True
        self._back.release()

    def resume(self) -> None:
        """Until it waits again. Raises what it raises."""
        if self._over:
            return
        self._go.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """From within."""
        self._back.release()
        self._go.acquire()
        if self._lost:
            raise Lost

    def lose(self) -> None:
        self._lost = True
        self.resume()


class Worker:
    """Does the batches that its number has left, each when it is given out. Is its own channel."""

    def __init__(self, cluster: Cluster, number: int, life: int) -> None:
        self.cluster, self.todo = cluster, cluster.left[number]
        self.me = ("worker", number, life)
        self.news: deque[Routing] = deque()
        self.inbox: list[Any] = []
        self._receiving = False
        self.notes: list[Note] = []
        cluster.histories.append(self.notes)
        self._asked: dict[int, tuple[wire.PushRequest, int, float]] = {}
        self.parameters = RemoteParameters(
            SPEC, number, self, self._listen, clock=lambda: cluster.now
        )
        self.coroutine = Coroutine(self._run)

    @property
    def may_begin(self) -> bool:
        return bool(self.todo) and self.cluster.gives_out(self.todo[0])

    @property
    def is_ready(self) -> bool:
        """Whether there is something that it would do now."""
        return bool(self.news) or (bool(self.inbox) if self._receiving else self.may_begin)

    def _run(self) -> None:
        while True:
            while not self.may_begin:
                self.coroutine.wait()
                self._listen()
            # a routing comes before the batches that were given out after it
            self._listen()
            batch = self.todo[0]
            step = batch.sequence if self.cluster.contributions else 0
            mine = (batch.worker, batch.sequence, step, 0)
            self.notes.append(PullBegins(*mine, self.cluster.tick()))
            by_sample = self.cluster.steps == "sample"
            pulled = self.parameters.pull(
                step,
                batch.keys,
                states=by_sample,
                samples=batch.samples if by_sample and not self.cluster.contributions else None,
            )
            each = float(pulled.tables[0][0][EACH, 1 if by_sample else 0])
            shown = int(each) if by_sample else self.cluster.shown.get(each, -1)
            self.notes.append(PullEnds(*mine, self.cluster.tick(), [shown]))
            pushed = batch.pushed(self.cluster.steps, [values for values, _ in pulled.tables])
            self.notes.append(PushBegins(*mine, self.cluster.tick()))
            self.parameters.push(
                batch.sequence, step, 0, pushed, [None, None], None, changes=by_sample
            )
            self.notes.append(PushEnds(*mine, self.cluster.tick()))
            self.todo.popleft()
            self.cluster.answered.append(batch)

    def _listen(self) -> None:
        while self.news:
            self.parameters.reroute(self.news.popleft())

    def connect(self, server: int, address: Any) -> None:
        raise NotImplementedError

    def send(self, server: int, frames: Sequence[Any]) -> None:
        request = wire.unpack_request(frames)
        if isinstance(request, wire.PushRequest):
            self._asked[request.id] = request, server, self.cluster.tick()
        self.cluster.send(self.me, ("server", server), frames)

    def receive(self, timeout_ms: int, also: Any = None) -> list[Any]:
        self._receiving = True
        self.coroutine.wait()
        self._receiving = False
        got, self.inbox = self.inbox, []
        for frames in got:
            reply = wire.unpack_reply(frames)
            if reply.error is None and reply.id in self._asked:
                asked, server, at = self._asked.pop(reply.id)
                marks = asked.worker, asked.sequence, asked.shard, server
                self.notes.append(Ack(*marks, asked.epoch, at, self.cluster.tick()))
        return got

    def close(self) -> None:
        raise NotImplementedError


# -- servers and the coordinator -------------------------------------------------------------------

Address = tuple[Any, ...]
COORDINATOR: Address = ("coordinator",)


#: No test here rolls back.
LINEAGE = 0

_clusters: list[Cluster] = []


@pytest.fixture(autouse=True)
def _no_worker_stays() -> Iterator[None]:
    yield
    _close_all()


def _close_all() -> None:
    while _clusters:
        _clusters.pop().close()


@dataclass
class Cluster:
    """`steps`: by what learners push: gradients, or changes of states (`train.steps`).

    `zombies`: a server that is lost goes on, and only the coordinator does not know it.
    `breaks`: of 1, how often before a message the connection that brings it breaks. `now`: seconds.
    """

    seed: int
    steps: StepsPer = "batch"
    servers: int = 3
    workers: int = 3
    batches: int = 4
    contributions: int | None = None
    replicated: bool = True
    zombies: bool = False
    breaks: float = 0.0
    now: float = 0.0
    #: How many messages were lost.
    lost: int = 0
    hosts: dict[int, Host] = field(default_factory=dict)
    crew: dict[int, Worker] = field(default_factory=dict)
    #: A server's side that forwards to backups, and hears from them, is ("backups", number).
    queues: dict[tuple[Address, Address], deque[Any]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    #: Batches that their workers know to be learned.
    answered: list[Batch] = field(default_factory=list)
    #: What each worker noted.
    histories: list[list[Note]] = field(default_factory=list)
    _ticks: Iterator[int] = field(default_factory=itertools.count)
    _given: int = 0
    _routing: bool = False
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _heard: deque[Any] = field(default_factory=deque)

    def __post_init__(self) -> None:
        _clusters.append(self)
        self.rng = random.Random(self.seed)
        #: Some ways are slow.
        self._speeds: dict[Any, float] = defaultdict(lambda: self.rng.choice([1.0, 1.0, 0.03]))
        self.shown = shown_by(self.contributions or 1)
        self.alive: set[int] = set()
        self.commands = ServerCommands(self._tell, contributions=self.contributions, dense=None)
        for server in range(self.servers):
            self._start_server(server)
        self.placement = Placement.initial(
            self.servers, self.alive, replicated=self.replicated, epoch=0
        )
        for shard in self.placement.shards:
            for server in self.placement.holders(shard):
                self.commands.create(server, shard, (), LINEAGE)
        self._announce(self.placement.renewed())
        self.left = {
            w: deque(Batch(w, n) for n in range(self.batches)) for w in range(self.workers)
        }
        for worker in range(self.workers):
            self._start_worker(worker)

    def tick(self) -> float:
        """A time that nothing else has."""
        return float(next(self._ticks))

    # the network

    def send(self, sender: Address, receiver: Address, frames: Sequence[Any]) -> None:
        self.queues[sender, receiver].append([bytes(frame) for frame in frames])

    def _deliver(self, sender: Address, receiver: Address) -> None:
        frames: list[Any] = [memoryview(f) for f in self.queues[sender, receiver].popleft()]
        kind, *number = receiver
        if kind == "coordinator":
            self._heard.append(frames)
        elif kind == "worker":
            worker = self.crew[number[0]]
            if worker.me == receiver:
                worker.inbox.append(frames)
        elif number[0] in self.hosts:
            host = self.hosts[number[0]]
            if kind == "server":
                actions = host.receive(sender, frames)
            else:
                actions = host.acknowledge(wire.unpack_reply(frames))
            for action in actions:
                if isinstance(action, Forward):
                    to = ("server", action.server)
                    self.send(("backups", host.replicas.server), to, action.frames)
                else:
                    self.send(("server", host.replicas.server), action.origin, action.frames)

    def go(self) -> bool:
        """A message is delivered, or a worker goes on; whether there was anything to do."""
        pairs = [pair for pair, queue in self.queues.items() if queue]
        ready = [w for w in self.crew.values() if w.is_ready]
        if not pairs and not ready:
            return False
        speeds = [self._speeds[pair] for pair in pairs] + [1.0] * len(ready)
        nexts: list[Worker | tuple[Address, Address]] = [*pairs, *ready]
        (chosen,) = self.rng.choices(nexts, speeds)
        if isinstance(chosen, Worker):
            chosen.coroutine.resume()
        elif COORDINATOR not in chosen and self.rng.random() < self.breaks:
            self._break(*chosen)
        else:
            self._deliver(*chosen)
        return True

    def go_on(self, count: int) -> None:
        for _ in range(count):
            self.go()

    def _break(self, one: Address, other: Address) -> None:
        """What is on its way is lost, in both directions; what was not sent yet comes later."""
        for way in ((one, other), (other, one)):
            queue = self.queues[way]
            for _ in range(self.rng.randint(0, len(queue))):
                queue.popleft()
                self.lost += 1

    def _cut_off(self, sender: Address) -> None:
        """What it has sent is on its way up to some message."""
        for pair, queue in self.queues.items():
            if pair[0] == sender:
                for _ in range(self.rng.randint(0, len(queue))):
                    queue.pop()

    # the coordinator

    def _tell(
        self, server: int, shard: int, command: str, frames: Sequence[Any] = (), **arguments: Any
    ) -> tuple[Any, list[Any]]:
        """Meanwhile all others go on."""
        number = next(self._numbers)
        head = wire.Command(number, shard, command, wire.pack_arguments(**arguments))
        self.send(COORDINATOR, ("server", server), wire.pack(head, frames))
        while True:
            assert self.go(), f"server {server} does not answer {command}"
            while self._heard:
                got = self._heard.popleft()
                reply = wire.unpack_reply(got)
                if reply.id == number:
                    assert reply.error is None, reply.error
                    return wire.unpack_arguments(reply.arguments)["of"], list(got[1:])

    def _start_server(self, server: int) -> None:
        self.hosts[server] = Host(server, lambda work: work())
        self.alive.add(server)
        self.commands.set_model(server, SPEC)

    def _announce(self, placement: Placement) -> None:
        """Told to the servers first, then to the workers; nobody begins a batch meanwhile."""
        self.placement = placement
        self._routing = True
        servers = self.rng.sample(sorted(self.alive), len(self.alive))
        self.commands.announce(placement, servers)
        self._routing = False
        for worker in self.crew.values():
            worker.news.append(self._where())

    def _where(self) -> Routing:
        return self.placement.routing(NODES, None)

    def _start_worker(self, number: int) -> None:
        self.crew[number] = Worker(self, number, next(self._numbers))
        self.crew[number].news.append(self._where())

    def gives_out(self, batch: Batch) -> bool:
        """In steps, when all workers have ended the one before."""
        if self._routing or batch.sequence >= self._given:
            return False
        done = len(self.answered) // self.workers
        return self.contributions is None or batch.sequence == done

    def lose_server(self, dead: int) -> None:
        self.alive.discard(dead)
        if not self.zombies:
            del self.hosts[dead]
            self._cut_off(("server", dead))
            self._cut_off(("backups", dead))
        self._announce(self.placement.without(dead))

    def lose_worker(self, number: int) -> None:
        """Another takes its number, and begins its batch again."""
        self.crew[number].coroutine.lose()
        self._cut_off(self.crew[number].me)
        self._start_worker(number)

    def repair(self) -> None:
        """Between batches: copies of the shards that have only one, on a new server."""
        new = next(self._numbers)
        self._start_server(new)
        placement = self.placement
        for shard, server in placement.repairs({new}).items():
            placement = self.commands.add_backup(
                placement, shard, server, step=self._done_steps, lineage=LINEAGE
            )
        self._announce(placement.renewed())

    @property
    def _done_steps(self) -> int:
        return len(self.answered) // self.workers

    # a run

    def run(self, batches: int | None = None, *, until: int | None = None) -> None:
        """So many batches of each worker (all), until they, or `until` of all, are answered."""
        self._given = self.batches if batches is None else batches
        enough = self.workers * self._given if until is None else until
        idle = 0
        while len(self.answered) < enough:
            if self.go():
                idle = 0
                continue
            # nothing is on its way: whoever polls looks again
            idle += 1
            assert idle < 3, "all wait, and nothing is on its way"
            self.now += client.AGAIN_AT_MOST_S
            assert self.now < MOST_S, "what comes again is refused again"
            for worker in self.crew.values():
                worker.coroutine.resume()

    def finish(self) -> None:
        """All batches; then no message is left, and the last step is applied."""
        self.run()
        while self.go():
            pass
        for shard in self.placement.shards:
            self.commands.settle(self.placement, shard, self._done_steps)

    def close(self) -> None:
        for worker in self.crew.values():
            worker.coroutine.lose()

    def shards(self, *, backups: bool = False) -> dict[int, Shard]:
        at = self.placement.backups if backups else self.placement.primaries
        return {s: self.hosts[n].replicas.held[s].shard for s, n in at.items() if n is not None}


# -- what there has to be --------------------------------------------------------------------------


def content(shard: Shard) -> Any:
    return bits.of_snapshot(shard.snapshot())


def times_pushed(shard: Shard) -> dict[int, float]:
    rows = shard.tables[0].all_rows()
    return dict(zip(rows.keys.tolist(), rows.states[0][:, 1].tolist(), strict=True))


def assert_each_counts_once(cluster: Cluster) -> None:
    """All batches; and a copy is its primary, bit by bit."""
    everything = [Batch(w, n) for n in range(cluster.batches) for w in range(cluster.workers)]
    assert sorted(cluster.answered) == sorted(everything)
    in_steps = cluster.contributions is not None
    due: dict[int, float] = defaultdict(float)
    for _, at_once in itertools.groupby(everything, lambda b: b.sequence if in_steps else b):
        keys, times = np.unique(
            np.concatenate([batch.keys[0] for batch in at_once]), return_counts=True
        )
        for key, count in zip(keys.tolist(), times.tolist(), strict=True):
            # a step adds the square of the sum of gradients to n, or the mean of changes of n
            due[key] += count**2 if cluster.steps == "batch" else 1
    ring, found = owners(cluster.placement.shards, NODES), dict[int, float]()
    for number, shard in cluster.shards().items():
        mine = times_pushed(shard)
        assert all(ring[key >> 48] == number for key in mine)
        found |= mine
    assert found == due
    primaries = cluster.shards()
    for number, copy in cluster.shards(backups=True).items():
        assert content(copy) == content(primaries[number])


def against_the_promise(cluster: Cluster) -> list[str]:
    """What is wrong in the notes of the workers, see `tests.trainer.history`."""
    steps = cluster.contributions
    (key,) = keys_of(1).tolist()
    times = {k: n for shard in cluster.shards().values() for k, n in times_pushed(shard).items()}
    final = times[key] / (steps**2 if steps and cluster.steps == "batch" else 1)
    due = cluster.batches * (1 if steps else cluster.workers)
    return history.problems(
        cluster.histories, in_steps=steps is not None, final=[int(final)], due=due
    )


def assert_all_answered_are_there(cluster: Cluster) -> None:
    """Now, and whatever is still on its way."""
    for batch in cluster.answered:
        for shard in cluster.shards().values():
            marks = shard.marks.get(batch.worker, Marks())
            assert batch.sequence < marks.below or batch.sequence in marks.above


def lose_a_server(cluster: Cluster) -> None:
    cluster.lose_server(cluster.rng.choice(sorted(cluster.alive)))
    assert_all_answered_are_there(cluster)


def go_on_for_a_while(cluster: Cluster) -> None:
    """Some batches, and some messages of the next ones."""
    cluster.run(until=cluster.rng.randrange(cluster.workers * cluster.batches - 1))
    cluster.go_on(cluster.rng.randrange(40))


# -- runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contributions", [None, 3])
@pytest.mark.parametrize("seed", range(10))
def test_without_faults_each_push_counts_once(seed: int, contributions: int | None) -> None:
    cluster = Cluster(seed, STEPS[seed % 2], contributions=contributions)
    cluster.finish()
    assert len(cluster.shards(backups=True)) == 3
    assert_each_counts_once(cluster)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_lost_server_loses_and_repeats_nothing(seed: int) -> None:
    cluster = Cluster(seed, STEPS[seed % 2], servers=2 + seed % 3)
    go_on_for_a_while(cluster)
    lose_a_server(cluster)
    cluster.finish()
    assert_each_counts_once(cluster)


@pytest.mark.parametrize("contributions", [None, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_server_that_was_given_up_and_goes_on_does_no_harm(
    seed: int, contributions: int | None
) -> None:
    cluster = Cluster(
        seed, STEPS[seed % 2], servers=2 + seed % 3, contributions=contributions, zombies=True
    )
    go_on_for_a_while(cluster)
    lose_a_server(cluster)
    cluster.finish()
    assert_each_counts_once(cluster)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_lost_worker_is_followed_by_one_that_repeats_nothing(seed: int) -> None:
    cluster = Cluster(seed, STEPS[seed % 2])
    for _ in range(3):
        cluster.run(until=len(cluster.answered) + cluster.rng.randrange(3))
        cluster.go_on(cluster.rng.randrange(40))
        cluster.lose_worker(cluster.rng.randrange(3))
    cluster.finish()
    assert_each_counts_once(cluster)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_and_then_a_server(seed: int) -> None:
    cluster = Cluster(seed, STEPS[seed % 2])
    go_on_for_a_while(cluster)
    cluster.lose_worker(cluster.rng.randrange(3))
    cluster.go_on(cluster.rng.randrange(30))
    lose_a_server(cluster)
    cluster.finish()
    assert_each_counts_once(cluster)


@pytest.mark.parametrize("contributions", [None, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_broken_connection_loses_comes_again_and_in_order(
    seed: int, contributions: int | None
) -> None:
    cluster = Cluster(seed, STEPS[seed % 2], batches=6, contributions=contributions, breaks=0.1)
    go_on_for_a_while(cluster)
    if seed % 4 < 2:
        lose_a_server(cluster)
    cluster.finish()
    assert_each_counts_once(cluster)
    assert against_the_promise(cluster) == []


def test_connections_break_in_these_tests() -> None:
    cluster = Cluster(0, batches=6, breaks=0.1)
    cluster.finish()
    assert cluster.lost > 20


def without_faults() -> Any:
    """Each shard after a run in steps, for each form of `train.steps`."""
    found = {}
    for steps in STEPS:
        cluster = Cluster(0, steps, contributions=3)
        cluster.finish()
        found[steps] = {number: content(shard) for number, shard in cluster.shards().items()}
    return found


@pytest.fixture(scope="module")
def expected() -> Any:
    return without_faults()


@pytest.mark.parametrize("seed", SEEDS)
def test_in_steps_a_loss_does_not_show_in_a_single_bit(seed: int, expected: Any) -> None:
    cluster = Cluster(seed, STEPS[seed % 2], contributions=3)
    go_on_for_a_while(cluster)
    cluster.lose_worker(cluster.rng.randrange(3))
    cluster.go_on(cluster.rng.randrange(30))
    lose_a_server(cluster)
    cluster.finish()
    assert_each_counts_once(cluster)
    assert {n: content(shard) for n, shard in cluster.shards().items()} == expected[cluster.steps]


@pytest.mark.parametrize("contributions", [None, 3])
@pytest.mark.parametrize("seed", range(40))
def test_what_was_copied_anew_survives_the_next_loss(seed: int, contributions: int | None) -> None:
    cluster = Cluster(seed, STEPS[seed % 2], batches=6, contributions=contributions)
    cluster.run(3, until=cluster.rng.randrange(8))
    lose_a_server(cluster)
    cluster.run(3)
    cluster.repair()
    assert len(cluster.shards(backups=True)) == 3
    cluster.run(until=9 + cluster.rng.randrange(8))
    cluster.go_on(cluster.rng.randrange(40))
    lose_a_server(cluster)
    cluster.finish()
    assert_each_counts_once(cluster)


def test_the_only_copy_of_a_shard_is_said_to_be_lost() -> None:
    cluster = Cluster(0, replicated=False)
    with pytest.raises(LostShardError):
        cluster.lose_server(1)


# -- and they can fail: a fault that is planted is found -------------------------------------------


def unparked(host: Host, forward: Forward) -> Answer:
    """The answer that waits for the backup."""
    (parked,) = (
        replica.parked.pop(forward.id)
        for replica in host.replicas.held.values()
        if forward.id in replica.parked
    )
    return Answer(parked.origin, parked.answer)


def _answers_before_the_backup_has_it(patch: pytest.MonkeyPatch) -> None:
    receive = Host.receive

    def hasty(host: Host, origin: Any, frames: Any) -> list[Answer | Forward]:
        actions = receive(host, origin, frames)
        return [*actions, *(unparked(host, a) for a in actions if isinstance(a, Forward))]

    patch.setattr(Host, "receive", hasty)


def _answers_what_the_backup_refused(patch: pytest.MonkeyPatch) -> None:
    acknowledge = Host.acknowledge

    def believing(host: Host, reply: wire.Reply) -> list[Answer | Forward]:
        return acknowledge(host, msgspec.structs.replace(reply, error=None))

    patch.setattr(Host, "acknowledge", believing)


def _forgets_marks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Marks, "take", lambda marks, sequence: True)


def _takes_what_comes_after_a_gap(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Shard, "taken", 0)


def _waits_for_what_was_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(client, "AGAIN_S", float("inf"))


def _copies_no_marks(patch: pytest.MonkeyPatch) -> None:
    load = Shard.load

    def without(shard: Shard, parts: Any) -> None:
        load(shard, parts)
        shard.marks.clear()

    patch.setattr(Shard, "load", without)


def _does_not_forward_what_comes_again(patch: pytest.MonkeyPatch) -> None:
    push, receive = Shard.push, Host.receive
    new: list[bool] = []

    def noted(shard: Shard, one: Any) -> bool:
        new.append(push(shard, one))
        return new[-1]

    def once(host: Host, origin: Any, frames: Any) -> list[Answer | Forward]:
        new.clear()
        actions = receive(host, origin, frames)
        if not any(new):
            again = [unparked(host, a) for a in actions if isinstance(a, Forward)]
            if again:
                return [*again]
        return actions

    patch.setattr(Shard, "push", noted)
    patch.setattr(Host, "receive", once)


def _adds_up_in_the_order_of_arrival(patch: pytest.MonkeyPatch) -> None:
    finish_step = Shard._finish_step

    def as_they_came(shard: Shard, to: int) -> None:
        shard._pending = dict(enumerate(shard._pending.values()))
        finish_step(shard, to)

    patch.setattr(Shard, "_finish_step", as_they_came)


def _reads_in_the_middle_of_a_step(patch: pytest.MonkeyPatch) -> None:
    """A worker that starts again sees what of the step was there."""
    pull = Shard.pull

    def unsettled(shard: Shard, step: int, keys: Any, **how: Any) -> Any:
        if step > shard.step:
            shard._finish_step(step)
        pulled = pull(shard, step, keys, **how)
        for push in shard._pending.values():
            for (values, _), part in zip(pulled.tables, push.tables, strict=True):
                values += np.float32(len(part.keys))
        return pulled

    patch.setattr(Shard, "pull", unsettled)


@pytest.mark.parametrize(
    ("plant", "test"),
    [
        (_answers_before_the_backup_has_it, test_a_lost_server_loses_and_repeats_nothing),
        (
            _answers_what_the_backup_refused,
            lambda seed: test_a_server_that_was_given_up_and_goes_on_does_no_harm(seed, None),
        ),
        (_forgets_marks, test_a_lost_server_loses_and_repeats_nothing),
        (_forgets_marks, test_a_lost_worker_is_followed_by_one_that_repeats_nothing),
        (
            _takes_what_comes_after_a_gap,
            lambda seed: test_what_a_broken_connection_loses_comes_again_and_in_order(seed, None),
        ),
        (
            _waits_for_what_was_lost,
            lambda seed: test_what_a_broken_connection_loses_comes_again_and_in_order(seed, 3),
        ),
        (
            _copies_no_marks,
            lambda seed: test_what_was_copied_anew_survives_the_next_loss(seed, None),
        ),
        (_does_not_forward_what_comes_again, test_a_worker_and_then_a_server),
        (
            _adds_up_in_the_order_of_arrival,
            lambda seed: test_in_steps_a_loss_does_not_show_in_a_single_bit(seed, without_faults()),
        ),
        (
            _reads_in_the_middle_of_a_step,
            lambda seed: test_in_steps_a_loss_does_not_show_in_a_single_bit(seed, without_faults()),
        ),
    ],
)
def test_a_planted_fault_is_found(
    plant: Callable[[pytest.MonkeyPatch], None],
    test: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        _all_of(test)


@pytest.mark.parametrize(
    ("plant", "contributions"),
    [
        (_answers_before_the_backup_has_it, None),
        (_forgets_marks, None),
        (_reads_in_the_middle_of_a_step, 3),
    ],
)
def test_a_planted_fault_shows_in_what_workers_noted(
    plant: Callable[[pytest.MonkeyPatch], None],
    contributions: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)

    def problems(seed: int) -> list[str]:
        cluster = Cluster(seed, STEPS[seed % 2], contributions=contributions)
        go_on_for_a_while(cluster)
        cluster.lose_server(cluster.rng.choice(sorted(cluster.alive)))
        try:
            cluster.finish()
        except (AssertionError, ServerError):
            return []  # it shows elsewhere, too
        finally:
            _close_all()
        return against_the_promise(cluster)

    assert any(problems(seed) for seed in MORE_SEEDS)


def _all_of(test: Callable[[int], None]) -> None:
    for seed in MORE_SEEDS:
        test(seed)
        _close_all()


# -- one host, message by message ------------------------------------------------------------------


def told(host: Host, command: str, shard: int = -1, frames: Sequence[Any] = (), **more: Any) -> Any:
    """All that a host sends for a command; its own answer is the last."""
    head = wire.Command(99, shard, command, wire.pack_arguments(**more))
    return host.receive("coordinator", wire.pack(head, frames))


def result_of(actions: Sequence[Answer | Forward]) -> Any:
    last = actions[-1]
    assert isinstance(last, Answer)
    reply = wire.unpack_reply(last.frames)
    assert reply.error is None, reply.error
    return wire.unpack_arguments(reply.arguments)["of"]


def host_with(
    *,
    primary: bool = True,
    backup: int | None = None,
    epoch: int = 3,
    contributions: int | None = None,
) -> Host:
    """Server 1 with shard 0."""
    host = Host(1, lambda work: work())
    told(host, "model", frames=[msgspec.msgpack.encode(SPEC)])
    told(host, "create", 0, contributions=contributions, has_dense=False)
    told(host, "route", epoch=epoch, backups={0: backup} if primary else {})
    return host


def empty_host(epoch: int) -> Host:
    host = Host(1, lambda _: None)
    host.replicas.epoch = epoch
    return host


def push_frames(epoch: int, *, number: int = 7, sequence: int = 0, step: int = 0) -> Any:
    tables = [
        TablePush(keys_of(1, 2), np.ones((2, table.width), np.float32), None)
        for table in SPEC.tables
    ]
    head = wire.PushRequest(number, epoch, 0, 0, sequence, step, 5, (False, False), False)
    return wire.pack(head, wire.push_frames(tables, None))


def pull_frames(epoch: int, step: int = 0) -> Any:
    head = wire.PullRequest(8, epoch, 0, step, False)
    return wire.pack(head, wire.pull_frames([keys_of(1, 2)] * 2))


def the_reply(actions: Sequence[Answer | Forward]) -> wire.Reply:
    (action,) = actions
    assert isinstance(action, Answer)
    return wire.unpack_reply(action.frames)


def the_forward(actions: Sequence[Answer | Forward]) -> Forward:
    (action,) = actions
    assert isinstance(action, Forward)
    return action


@pytest.mark.parametrize("message", [push_frames, pull_frames])
@pytest.mark.parametrize(
    ("host", "epoch"),
    [
        pytest.param(lambda: host_with(), 2, id="of an older epoch"),
        pytest.param(lambda: host_with(), 4, id="of an epoch that it has not heard of"),
        pytest.param(lambda: host_with(primary=False), 3, id="for a backup"),
        pytest.param(lambda: empty_host(epoch=3), 3, id="for what it does not have"),
    ],
)
def test_what_is_not_for_this_host_is_refused(
    message: Callable[[int], Any], host: Callable[[], Host], epoch: int
) -> None:
    made = host()
    reply = the_reply(made.receive("worker", message(epoch)))
    assert reply.error == wire.OTHER_EPOCH
    assert reply.epoch == 3, "so that the worker knows which of them is behind"
    assert all(copy.shard.marks == {} for copy in made.replicas.held.values())


def test_a_push_is_answered_when_the_backup_has_it() -> None:
    primary, backup = host_with(backup=2), host_with(primary=False)
    forward = the_forward(primary.receive("worker", push_frames(3)))
    assert forward.server == 2
    reply = the_reply(backup.receive("server 1", forward.frames))
    assert (reply.error, reply.id) == (None, forward.id)
    (answer,) = primary.acknowledge(reply)
    assert isinstance(answer, Answer)
    assert answer.origin == "worker"
    assert wire.unpack_reply(answer.frames) == wire.Reply(7, 0, 3)
    assert primary.acknowledge(reply) == [], "once"
    assert content(primary.replicas.held[0].shard) == content(backup.replicas.held[0].shard)
    assert times_pushed(backup.replicas.held[0].shard) == dict.fromkeys(keys_of(1, 2).tolist(), 1)


def test_what_was_taken_before_goes_to_the_backup_again() -> None:
    primary = host_with(backup=2)
    first = the_forward(primary.receive("worker", push_frames(3)))
    again = the_forward(primary.receive("worker", push_frames(3, number=8)))
    assert again.frames == first.frames
    answer = the_reply(primary.acknowledge(wire.Reply(first.id, 0, 3)))
    assert answer.id == 8, "the answer is to the newer message"
    late = the_reply(primary.receive("worker", push_frames(3, number=9)))
    assert (late.id, late.error) == (9, None), "the backup has it"


def test_a_backup_takes_nothing_after_a_gap_and_all_of_it_in_order_when_it_comes_again() -> None:
    primary, backup = host_with(backup=2), host_with(primary=False)
    lost = the_forward(primary.receive("worker", push_frames(3, sequence=0)))
    next_one = the_forward(primary.receive("worker", push_frames(3, number=8, sequence=1)))
    refused = the_reply(backup.receive("server 1", next_one.frames))
    assert refused.error == wire.GAP
    assert backup.replicas.held[0].shard.marks == {}
    assert primary.acknowledge(refused) == [], "so its worker waits"
    again = primary.receive("worker", push_frames(3, number=9, sequence=1))
    assert again == [lost, next_one]
    for forward in again:
        assert isinstance(forward, Forward)
        assert the_reply(backup.receive("server 1", forward.frames)).error is None
    assert content(primary.replicas.held[0].shard) == content(backup.replicas.held[0].shard)


def test_a_primary_says_how_long_its_backup_has_been_silent() -> None:
    primary = host_with(backup=2)
    now = 100.0
    primary.replicas.clock = lambda: now
    assert result_of(told(primary, "waiting", 0)) == 0
    forward = the_forward(primary.receive("worker", push_frames(3)))
    now = 107.0
    primary.receive("worker", push_frames(3, number=8, sequence=1))
    assert result_of(told(primary, "waiting", 0)) == 7
    primary.acknowledge(wire.Reply(forward.id, 0, 3))
    assert result_of(told(primary, "waiting", 0)) == 0


def test_a_push_without_a_backup_is_answered_at_once() -> None:
    assert the_reply(host_with().receive("worker", push_frames(3))).error is None


def test_answers_do_not_wait_for_a_backup_that_is_gone() -> None:
    primary = host_with(backup=2)
    primary.receive("worker", push_frames(3))
    answer, _ = told(primary, "route", epoch=4, backups={0: None})
    assert answer.origin == "worker"
    assert wire.unpack_reply(answer.frames).error is None


def zombie() -> tuple[Host, Host, wire.Reply]:
    """One that was given up, with a push; its backup, which has taken over; what that says."""
    primary, backup = host_with(backup=2), host_with(primary=False)
    forward = the_forward(primary.receive("worker", push_frames(3)))
    told(backup, "route", epoch=4, backups={0: None})
    reply = the_reply(backup.receive("server 1", forward.frames))
    return primary, backup, reply


def test_one_that_takes_itself_for_the_primary_gets_nothing_acknowledged() -> None:
    primary, backup, reply = zombie()
    assert reply.error == wire.OTHER_EPOCH
    assert backup.replicas.held[0].shard.marks == {}
    assert primary.acknowledge(reply) == []


@pytest.mark.parametrize("refused", [False, True])
def test_nor_does_it_answer_when_it_hears_that_it_is_none(refused: bool) -> None:
    primary, _, reply = zombie()
    if refused:
        primary.acknowledge(reply)
    # what is primary now does not have the push
    answers = [a for a in told(primary, "route", epoch=4, backups={})[:-1] if isinstance(a, Answer)]
    assert [a for a in answers if wire.unpack_reply(a.frames).error is None] == []


def test_a_push_that_was_on_its_way_to_a_backup_does_not_reach_what_is_there_later() -> None:
    """After a rollback the marks begin anew: it would be taken for one of the new pushes."""
    primary, backup = host_with(backup=2), host_with(primary=False)
    forward = the_forward(primary.receive("worker", push_frames(3)))
    told(backup, "model", frames=[msgspec.msgpack.encode(SPEC)])
    told(backup, "create", 0, contributions=None, has_dense=False, lineage=1)
    told(backup, "route", epoch=4, backups={})
    reply = the_reply(backup.receive("server 1", forward.frames))
    assert backup.replicas.held[0].shard.marks == {}
    assert reply.error == wire.OTHER_EPOCH


def test_a_backup_that_has_not_heard_of_the_epoch_takes_what_is_of_it() -> None:
    """The coordinator tells one server after the other."""
    primary, backup = host_with(backup=2, epoch=4), host_with(primary=False, epoch=3)
    forward = the_forward(primary.receive("worker", push_frames(4)))
    assert the_reply(backup.receive("server 1", forward.frames)).error is None


def test_an_error_is_an_answer_and_goes_nowhere_else() -> None:
    host = host_with(backup=2, contributions=2)
    reply = the_reply(host.receive("worker", push_frames(3, step=5)))
    assert reply.id == 7
    assert reply.error is not None
    assert reply.error.startswith("OutOfStepError")
    assert isinstance(the_forward(host.receive("worker", push_frames(3))), Forward)


@pytest.mark.parametrize(
    ("name", "more"), [("dance", {}), ("settle", {"steps": 3}), ("expire", {"now": 3})]
)
def test_a_command_that_cannot_be_done_is_answered_with_its_error(
    name: str, more: dict[str, Any]
) -> None:
    host = host_with()
    assert the_reply(told(host, name, 5, **more)).error is not None
    assert result_of(told(host, "stats", 0))["rows"] == [0, 0], "and the host goes on"


# -- commands --------------------------------------------------------------------------------------


def shares(host: Host, worker: int) -> Any:
    """The divisors that a worker gets with a pull of three samples of each of two keys."""
    head = wire.PullRequest(8, 3, 0, 0, False, True, worker)
    counts = [np.full(2, 3, np.uint32)] * 2
    (action,) = host.receive(
        "worker", wire.pack(head, wire.pull_frames([keys_of(1, 2)] * 2, counts))
    )
    assert isinstance(action, Answer)
    pulled = wire.read_pulled(action.frames, SPEC, states=True, divisors=True)
    assert pulled.divisors is not None
    return [of.tolist() for of in pulled.divisors]


def test_workers_share_the_keys_of_their_newest_pulls() -> None:
    host = host_with()
    assert [shares(host, w) for w in (0, 1, 1, 0)] == [[[n] * 2] * 2 for n in (1, 2, 2, 2)]


def _not_primary_for_a_while(host: Host) -> None:
    told(host, "route", epoch=3, backups={})
    told(host, "route", epoch=3, backups={0: None})


def _rows_leave(host: Host) -> None:
    told(host, "take out", 0, [np.zeros(ARCS, np.bool_).tobytes()])


def _rows_come(host: Host) -> None:
    sent = told(host_with(), "take out", 0, [np.zeros(ARCS, np.bool_).tobytes()])
    told(host, "take in", 0, sent[-1].frames[1:])


@pytest.mark.parametrize("change", [_not_primary_for_a_while, _rows_leave, _rows_come])
def test_who_shares_is_found_out_anew_after_a_failover_and_when_rows_move(
    change: Callable[[Host], None],
) -> None:
    host = host_with()
    for worker in range(3):
        shares(host, worker)
    change(host)
    assert shares(host, 0) == [[1.0, 1.0]] * 2
    assert shares(host, 1) == [[2.0, 2.0]] * 2


def test_who_shares_stays_known_where_nothing_changes() -> None:
    """Another epoch, after another server was lost, is not another primary."""
    host = host_with()
    shares(host, 0)
    told(host, "route", epoch=3, backups={0: None})
    assert shares(host, 1) == [[2.0, 2.0]] * 2


def trained() -> Host:
    host = host_with()
    for sequence in range(3):
        assert the_reply(host.receive("worker", push_frames(3, sequence=sequence))).error is None
    return host


def test_a_copy_is_made_from_parts() -> None:
    host, other = trained(), host_with(primary=False)
    sent = told(host, "snapshot", 0)[-1].frames
    told(other, "create", 0, sent[1:], contributions=None, has_dense=False)
    assert content(other.replicas.held[0].shard) == content(host.replicas.held[0].shard)
    assert not other.replicas.held[0].primary


def test_arcs_move_from_one_shard_to_another() -> None:
    host, other = trained(), host_with()
    arcs = np.zeros(ARCS, np.bool_)
    arcs[arcs_of(keys_of(2))] = True
    actions = told(host, "take out", 0, [arcs.tobytes()])
    assert result_of(actions) == 2, "in each table"
    told(other, "take in", 0, actions[-1].frames[1:])
    assert times_pushed(host.replicas.held[0].shard) == {int(keys_of(1)[0]): 3}
    assert times_pushed(other.replicas.held[0].shard) == {int(keys_of(2)[0]): 3}
    assert the_reply(other.receive("worker", push_frames(3, sequence=2))).error is None
    assert times_pushed(other.replicas.held[0].shard) == {int(keys_of(2)[0]): 3}, (
        "it has the marks too"
    )


def test_a_shard_is_dropped() -> None:
    host = trained()
    told(host, "drop", 0)
    assert host.replicas.held == {}
    told(host, "drop", 0)
    assert the_reply(host.receive("worker", pull_frames(3))).error == wire.OTHER_EPOCH


def test_another_model_has_nothing_of_the_one_before() -> None:
    host = trained()
    told(host, "model", frames=[msgspec.msgpack.encode(SPEC)])
    assert host.replicas.held == {}


def test_stats_count_rows_and_messages() -> None:
    host = trained()
    host.receive("worker", pull_frames(3))
    stats = result_of(told(host, "stats", 0))
    assert stats.pop("bytes") == [table.nbytes for table in host.replicas.held[0].shard.tables]
    assert stats == {"rows": [2, 2], "pulls": 1, "pushes": 3, "keys_pushed": 12}


def later_host() -> tuple[Host, list[Callable[[], None]]]:
    """One whose work is done when a test does it."""
    host, work = trained(), list[Callable[[], None]]()
    host.replicas.later = work.append
    return host, work


def test_a_checkpoint_is_of_the_moment_of_its_command(tmp_path: Path) -> None:
    host, work = later_host()
    then = content(host.replicas.held[0].shard)
    assert result_of(told(host, "checkpoint", 0, folder=str(tmp_path))) == 4
    assert result_of(told(host, "result", 0, name="checkpoint")) is None
    host.receive("worker", push_frames(3, sequence=3))
    work.pop()()
    written = result_of(told(host, "result", 0, name="checkpoint"))["of"]
    (file,) = msgspec.convert(written, list[shard_file.File])
    with (tmp_path / file.name).open("rb") as opened:
        assert file.checksum == shard_file.checksum(opened)
        opened.seek(0)
        parts = shard_file.read_snapshot(opened)
    again = Shard(SPEC, contributions=None, has_dense=False)
    again.load(parts)
    assert content(again) == then != content(host.replicas.held[0].shard)


def test_work_that_failed_says_why_and_the_next_does_not(tmp_path: Path) -> None:
    host, work = later_host()
    told(host, "checkpoint", 0, folder=str(tmp_path / "nowhere"))
    work.pop()()
    error = result_of(told(host, "result", 0, name="checkpoint"))["error"]
    assert str(tmp_path / "nowhere") in error
    assert "No such file or directory" in error
    told(host, "checkpoint", 0, folder=str(tmp_path))
    assert result_of(told(host, "result", 0, name="checkpoint")) is None, "not that of before"


def test_work_that_ends_late_is_not_taken_for_that_of_the_next_command(tmp_path: Path) -> None:
    """A checkpoint that was given up, since a server was lost, may still be in the writing."""
    host, work = later_host()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        told(host, "checkpoint", 0, folder=str(tmp_path / name))
    work.pop(0)()
    assert result_of(told(host, "result", 0, name="checkpoint")) is None
    work.pop()()
    assert "of" in result_of(told(host, "result", 0, name="checkpoint"))


@pytest.mark.parametrize("primary", [False, True])
def test_an_export_counts_changes_anew_on_both_copies_and_is_written_by_one(
    tmp_path: Path, primary: bool
) -> None:
    host = trained()
    told(host, "route", epoch=4, backups={0: None} if primary else {})
    export: dict[str, Any] = {"folder": str(tmp_path), "number": 0, "everything": False}
    assert result_of(told(host, "export", 0, **export)) == 4
    assert result_of(told(host, "export", 0, **export | {"number": 1})) == 0
    assert bool(list(tmp_path.iterdir())) == primary
    assert (result_of(told(host, "result", 0, name="export")) is not None) == primary
