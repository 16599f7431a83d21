"""A worker's process: runs the batches that the coordinator gives it, and sends the outcomes."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Any

import msgspec
import zmq

from trainer.features.batch import Batch
from trainer.features.encode import MOST_SLICES
from trainer.run.batches import Batches
from trainer.run.job import Job
from trainer.run.learner import Learner
from trainer.run.messages import (
    Abandon,
    Done,
    Failed,
    FromWorker,
    Name,
    Named,
    Ready,
    Route,
    Silent,
    Tell,
    Told,
    Work,
    pack,
    read_to_worker,
)
from trainer.server.channel import Channel, ZmqChannel, check
from trainer.server.client import RemoteParameters

#: Seconds without a heartbeat of the coordinator until a worker ends.
CUT_OFF_AFTER_S = 60.0


class _CutOff(Exception):  # noqa: N818  not an error: another process takes the work
    pass


class _Abandoned(Exception):  # noqa: N818  not an error: it leaves a batch that was given up
    pass


class Worker:
    """`number`: the worker's. `control`: the coordinator's address."""

    def __init__(self, job: Job, number: int, control: str) -> None:
        self._job, self._number = job, number
        self._context = zmq.Context()
        self._control: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._control.setsockopt(zmq.LINGER, 1_000)
        check(self._control, CUT_OFF_AFTER_S)
        self._breaks = self._control.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._control.connect(control)
        self._channel = self.make_channel(self._context)
        self._parameters = RemoteParameters(
            *(job.spec, number, self._channel, self._listen, self._control, self._tell_of_silence)
        )
        share = job.batch_rows // (job.workers if job.consistency == "bsp" else 1)
        # under BSP the servers know all changes, and divide
        sharing = job.workers > 1 and job.consistency != "bsp"
        self._learner = Learner(
            *(job.spec, job.rules, job.layout, share, job.steps, job.slice_share), sharing=sharing
        )
        self._batches = Batches(job, self._number_of)
        self._queue: deque[Work] = deque()
        self._names: dict[str, list[str]] = {}
        self._generation = 0
        self._stopped = False

    def make_channel(self, context: zmq.Context[Any]) -> Channel:
        """The connection to the servers."""
        return ZmqChannel(context)

    def run(self) -> None:
        """Work until told to stop. An error in a batch is sent, and then raised.

        Also returns when the connection to the coordinator breaks, because messages may be lost
        then. The coordinator replaces a worker that has ended.
        """
        self._send(Ready(self._number, os.getpid(), self._generation))
        while not self._stopped:
            try:
                if self._queue:
                    self._work(self._queue.popleft())
                else:
                    self._control.poll(1_000)
                    self._listen()
            except _CutOff:
                break
            except _Abandoned:
                self._queue.clear()
                self._learner.take_tally()
                self._send(Ready(self._number, os.getpid(), self._generation))
            except Exception as error:
                self._send(Failed(self._number, f"{type(error).__name__}: {error}"))
                raise
        self._batches.close()
        self._channel.close()
        self._control.disable_monitor()
        self._breaks.close()
        self._control.close()

    def _work(self, work: Work) -> None:
        began = time.perf_counter()
        batch = self.read(work)
        read_s = time.perf_counter() - began
        outcome = self._learner.learn(
            *(batch, self._parameters, work.sequence, work.step, read_s),
            lambda: self._batches.prepare(work.task, work.part, work.parts),
        )
        self._send(Done(self._number, work.generation, work.sequence, outcome))

    def read(self, work: Work) -> Batch:
        """The samples of a piece of work. Raises ReadError."""
        return self._batches.of(work.task, work.part, work.parts)

    def _send(self, message: FromWorker) -> None:
        self._control.send(pack(message))

    def _tell_of_silence(self, shard: int) -> None:
        self._send(Silent(self._number, shard))

    def _listen(self) -> None:
        """Handle the coordinator's messages. Raises _Abandoned, _CutOff."""
        while not self._stopped:
            try:
                data = self._control.recv(zmq.NOBLOCK)
            except zmq.Again:
                if self._breaks.poll(0):
                    raise _CutOff from None
                return
            message = read_to_worker(data)
            if isinstance(message, Work):
                if message.generation == self._generation:
                    self._queue.append(message)
            elif isinstance(message, Route):
                for server, address in message.addresses.items():
                    self._channel.connect(server, address)
                self._parameters.reroute(message.routing)
            elif isinstance(message, Abandon):
                self._generation = message.generation
                raise _Abandoned
            elif isinstance(message, Tell):
                tally = self._learner.take_tally().encode()
                self._send(Told(self._number, message.generation, tally))
            elif isinstance(message, Named):
                self._names[message.column] = message.names
            else:
                self._stopped = True

    def _number_of(self, column: str, text: str) -> int:
        while True:
            known = self._names.setdefault(column, [])
            if text in known:
                return known.index(text)
            if len(known) >= MOST_SLICES:
                return MOST_SLICES
            self._send(Name(self._number, column, text))
            while self._names[column] is known:
                self._control.poll(1_000)
                self._listen()


def worker_main(job: bytes, number: int, control: str) -> None:
    """The body of a worker's process. `job`: in msgpack. `control`: the coordinator's address."""
    Worker(msgspec.msgpack.decode(job, type=Job), number, control).run()
