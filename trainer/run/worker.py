"""A worker's process: does the work that the coordinator gives it, and tells what came of it."""

from __future__ import annotations

import importlib
import os
import time
from collections import deque

import msgspec
import zmq

from trainer.features.encode import MOST_SLICES
from trainer.run.batches import Batches, Job
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
    Tell,
    Told,
    Work,
    pack,
    read_to_worker,
)
from trainer.server.channel import Channel, RayChannel, ZmqChannel
from trainer.server.client import RemoteParameters


class _Abandoned(Exception):  # noqa: N818  not an error: it leaves what is not wanted any more
    pass


class Worker:
    """`number` is its rank; `control` the coordinator's address."""

    def __init__(self, job: Job, number: int, control: str, transport: str) -> None:
        self._job, self._number = job, number
        self._context = zmq.Context()
        self._control: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._control.setsockopt(zmq.LINGER, 1_000)
        self._control.connect(control)
        self._channel: Channel = ZmqChannel(self._context) if transport == "zmq" else RayChannel()
        if job.channel is not None:
            module, name, argument = job.channel.split(":", 2)
            wrap = getattr(importlib.import_module(module), name)
            self._channel = wrap(self._channel, number, argument)
        self._parameters = RemoteParameters(
            job.spec, number, self._channel, self._listen, self._control
        )
        share = job.batch_rows // (job.workers if job.consistency == "bsp" else 1)
        self._learner = Learner(job.spec, job.rules, job.layout, share)
        self._batches = Batches(job, self._number_of)
        self._queue: deque[Work] = deque()
        self._names: dict[str, list[str]] = {}
        self._generation = 0
        self._stopped = False

    def run(self) -> None:
        """Works until it is told to stop. Raises what a batch raises, after telling it."""
        self._send(Ready(self._number, os.getpid(), self._generation))
        while not self._stopped:
            try:
                if self._queue:
                    self._work(self._queue.popleft())
                elif self._control.poll(1_000):
                    self._listen()
            except _Abandoned:
                self._queue.clear()
                self._learner.take_tally()
                self._send(Ready(self._number, os.getpid(), self._generation))
            except Exception as error:
                self._send(Failed(self._number, f"{type(error).__name__}: {error}"))
                raise
        self._channel.close()
        self._control.close()

    def _work(self, work: Work) -> None:
        began = time.perf_counter()
        batch = self._batches.of(work.task, work.part, work.parts)
        pause = self._job.slow.get(self._number)
        if pause:
            time.sleep(pause)
        read_s = time.perf_counter() - began
        outcome = self._learner.learn(batch, self._parameters, work.sequence, work.step, read_s)
        self._send(Done(self._number, work.generation, work.sequence, outcome))

    def _send(self, message: FromWorker) -> None:
        self._control.send(pack(message))

    def _listen(self) -> None:
        """Takes what the coordinator has sent meanwhile."""
        while True:
            try:
                data = self._control.recv(zmq.NOBLOCK)
            except zmq.Again:
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


def worker_main(job_bytes: bytes, number: int, control: str, transport: str) -> None:
    """The body of a worker's actor."""
    job = msgspec.msgpack.decode(job_bytes, type=Job)
    Worker(job, number, control, transport).run()
