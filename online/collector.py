"""The action collector: clients hand in what users did, and get an answer when the broker has it.

    python -m online.collector --config collector.toml

docs/ranking.md has the requests and answers.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from configuration import paths
from configuration.command_line import ServiceFile
from configuration.command_line import run as run_command
from configuration.reading import ConfigError, Duration, Section, read, wrong_in
from online.event_log import ActionLog
from online.events import InvalidEventError
from online.http_service import (
    DISCONNECTED,
    JSON,
    UNREADABLE,
    AtLeastOne,
    CannotListenError,
    LogCounts,
    Port,
    RefusedError,
    application,
    body_of,
    bound,
    serve,
)
from online.sender import may_pass

PREFIX = "sample_stitch_collector"
_ANSWER_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class CollectorServer(Section, frozen=True):
    """`[server]`: where it listens, and how large a batch may be."""

    address: str = "127.0.0.1"
    port: Port = 8081
    max_actions: AtLeastOne = 1000
    max_body_bytes: AtLeastOne = 1 << 20


class CollectorConfig(Section, frozen=True):
    """The whole file. `answer_within`: how long a client waits for the broker at most."""

    pipeline: str
    answer_within: Duration = Duration(10_000)
    server: CollectorServer = CollectorServer()


class CollectedAction(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An action as a client sends it.

    `event_id` is required: it is the same when the client sends the action again, which is how the
    join knows. `event_time` (epoch ms) is the client's, and may be long ago.
    """

    kind: str
    user_id: str
    item_id: str
    event_id: str
    event_time: int
    request_id: str | None = None
    value: float | None = None


class Batch(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /actions`. Each action is read for itself: one may be wrong."""

    actions: list[msgspec.Raw]


class Result(msgspec.Struct, omit_defaults=True):
    """What became of an action. One that was rejected is not to be sent again."""

    status: Literal["accepted", "rejected"]
    reason: str | None = None
    message: str | None = None


class Answer(msgspec.Struct):
    """All of a batch, in its order."""

    results: list[Result]


class Collector:
    """Hands batches to the log, and waits until the broker has them."""

    def __init__(self, config: CollectorConfig, actions: ActionLog) -> None:
        self._config, self._actions = config, actions
        self._decoder = msgspec.json.Decoder(CollectedAction)

    async def collect(self, batch: Batch) -> Answer:
        """Raises RefusedError: 413 for too many, 503 if the broker does not have all in time."""
        limit = self._config.server.max_actions
        if len(batch.actions) > limit:
            raise RefusedError(
                413, "too_large", f"expected at most {limit:,} actions; got {len(batch.actions):,}"
            )
        results: list[Result] = []
        #: By the place of the action in the batch.
        deliveries: dict[int, asyncio.Future[None]] = {}
        try:
            for raw in batch.actions:
                result, delivered = self._take(raw)
                if delivered is not None:
                    deliveries[len(results)] = asyncio.wrap_future(delivered)
                results.append(result)
            if deliveries:
                await self._delivered(deliveries, results)
        finally:
            # nobody asks any more what becomes of the others
            for one in deliveries.values():
                one.cancel()
        return Answer(results)

    def _take(self, raw: msgspec.Raw) -> tuple[Result, Future[None] | None]:
        """What becomes of an action, and, if it is accepted, of its delivery."""
        try:
            action = self._decoder.decode(raw)
        except UNREADABLE as error:
            return Result("rejected", "bad_action", str(error)), None
        delivered: Future[None] = Future()
        try:
            accepted = self._actions.action(
                action.kind,
                action.user_id,
                action.item_id,
                request_id=action.request_id,
                value=action.value,
                event_id=action.event_id,
                event_time=action.event_time,
                delivered=delivered,
            )
        except InvalidEventError as error:
            return Result("rejected", error.reason, str(error)), None
        if not accepted:
            raise _unavailable("too many actions wait for the broker")
        return Result("accepted"), delivered

    async def _delivered(
        self, deliveries: Mapping[int, asyncio.Future[None]], results: list[Result]
    ) -> None:
        """Waits for all; an action that the brokers refuse for good is rejected in `results`."""
        done, pending = await asyncio.wait(
            deliveries.values(), timeout=self._config.answer_within / 1e3
        )
        errors = {
            at: error
            for at, one in deliveries.items()
            if one in done and isinstance(error := one.exception(), Exception)
        }
        for at, error in errors.items():
            if may_pass(error):
                raise _unavailable(f"the broker did not take it: {error}")
            results[at] = Result("rejected", "refused_by_broker", str(error))
        if pending:
            raise _unavailable("the broker has not answered in time")


def _unavailable(why: str) -> RefusedError:
    """What the broker has got meanwhile is there twice then; the join knows by the event ids."""
    return RefusedError(503, "unavailable", f"{why}; send the batch again, with the same event ids")


class Instruments:
    """The service's metrics: names and units are stable, docs/ranking.md lists them."""

    def __init__(self, actions: ActionLog) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        # nothing is lost: their clients were told to send them again
        self.registry.register(LogCounts(PREFIX, lambda: actions.counts, lost="given_up"))
        self.batches = Counter(
            f"{PREFIX}_batches", "Batches by HTTP status", ["status"], registry=self.registry
        )
        for status in (200, 400, 413, DISCONNECTED, 503):
            self.batches.labels(str(status))
        self.rejected = Counter(
            f"{PREFIX}_rejected", "Actions by reason", ["reason"], registry=self.registry
        )
        self.seconds = Histogram(
            f"{PREFIX}_seconds",
            "Seconds until a batch was answered",
            buckets=_ANSWER_S,
            registry=self.registry,
        )


def routes(collector: Collector, instruments: Instruments, max_body_bytes: int) -> list[Route]:
    """`POST /actions`."""

    async def answer(request: Request) -> Answer:
        try:
            batch = msgspec.json.decode(await body_of(request, max_body_bytes), type=Batch)
        except UNREADABLE as error:
            raise RefusedError(400, "bad_request", str(error)) from None
        return await collector.collect(batch)

    async def actions(request: Request) -> Response:
        begun = time.perf_counter()
        try:
            found = await answer(request)
        except RefusedError as error:
            instruments.batches.labels(str(error.status)).inc()
            response = error.response()
            if error.status == 503:
                response.headers["Retry-After"] = "1"
            return response
        finally:
            instruments.seconds.observe(time.perf_counter() - begun)
        instruments.batches.labels("200").inc()
        for one in found.results:
            if one.reason is not None:
                instruments.rejected.labels(one.reason).inc()
        return Response(msgspec.json.encode(found), media_type=JSON)

    return [Route("/actions", actions, methods=["POST"])]


def application_of(config: CollectorConfig, actions: ActionLog) -> Starlette:
    """The service, without an address. It is ready while the brokers take what it hands them."""
    instruments = Instruments(actions)
    return application(
        routes(Collector(config, actions), instruments, config.server.max_body_bytes),
        instruments.registry,
        actions.trouble,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run_command(_serve, argv, "python -m online.collector")


def _serve(
    config: ServiceFile,
) -> int:
    """Take actions over HTTP, and answer when the broker has them.

    Exit codes: 0 ended by a signal; 1 it cannot listen; 2 the configuration is wrong.
    """
    try:
        found = read(config, CollectorConfig)
        if found.answer_within <= 0:
            raise wrong_in(config, ())("answer_within", "must be longer than 0")
        # A client sends again what it got no answer for, so nothing is tried for longer than that.
        actions = ActionLog(
            paths.beside(config, found.pipeline), give_up_s=found.answer_within / 1e3
        )
    except ConfigError as error:
        print(f"collector: {error}", file=sys.stderr)
        return 2
    try:
        listening = bound(found.server.address, found.server.port)
    except CannotListenError as error:
        print(f"collector: {error}", file=sys.stderr)
        actions.close(0)
        return 1
    with actions:
        serve(application_of(found, actions), listening)
    return 0


if __name__ == "__main__":
    sys.exit(main())
