"""The ranking service: candidates in, a ranked list out, and the features logged as they were used.

    python -m online.ranking --config ranking.toml

docs/ranking.md has the requests and answers, and what happens without a model.
"""

from __future__ import annotations

import logging
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from xxhash import xxh64_intdigest

from configuration.command_line import ServiceFile
from configuration.command_line import run as run_command
from configuration.reading import ConfigError
from configuration.stores import folder
from online.event_log import FeatureLog
from online.events import InvalidEventError
from online.exploration import Floats, Ranked
from online.http_service import (
    DISCONNECTED,
    JSON,
    UNREADABLE,
    CannotListenError,
    LogCounts,
    RefusedError,
    application,
    body_of,
    bound,
    serve,
)
from online.model_keeper import ModelKeeper, Served
from online.ranking_config import LogSection, RankingConfig, load

log = logging.getLogger(__name__)

PREFIX = "sample_stitch_ranking"
_LATENCY_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2)


class Candidate(msgspec.Struct, forbid_unknown_fields=True):
    """An item that may be shown, and its features by name."""

    item_id: str
    features: dict[str, Any] = {}


class RankRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /rank`. `event_time`: epoch ms, now when absent. `top`: how many are shown,
    all when absent.
    """

    user_id: str
    candidates: list[Candidate]
    request_id: str | None = None
    event_time: int | None = None
    context: dict[str, Any] = {}
    top: Annotated[int, msgspec.Meta(ge=1)] | None = None


class RankedItem(msgspec.Struct):
    """An item of the answer. `score`: None without a model."""

    item_id: str
    score: float | None
    propensity: float


class ModelVersion(msgspec.Struct):
    """The export that scored. `event_time`: up to when it had learned, epoch ms."""

    run: str
    number: int
    event_time: int | None


class RankAnswer(msgspec.Struct):
    """`fallback`: why no model has ranked. `logged`: whether the features are on their way."""

    request_id: str
    event_time: int
    model: ModelVersion | None
    fallback: str | None
    explored: bool
    logged: bool
    items: list[RankedItem]


class Ranking:
    """Ranks, and logs. One request at a time, in the thread of the caller."""

    def __init__(
        self, config: RankingConfig, keeper: ModelKeeper, features: FeatureLog, seed: int | None
    ) -> None:
        self._config, self._keeper, self._features = config, keeper, features
        self._exploration = config.exploration.make()
        self._seed = 0 if seed is None else seed
        self._own = frozenset(_names(config.log))
        self._said = ""

    def rank(self, asked: RankRequest) -> RankAnswer:
        """Raises RefusedError for a request that the join would reject."""
        limit = self._config.server.max_candidates
        if not 1 <= len(asked.candidates) <= limit:
            raise RefusedError(
                400, "bad_request", f"expected 1 to {limit} candidates; got {len(asked.candidates)}"
            )
        for given in (asked.context, *(one.features for one in asked.candidates)):
            if not self._own.isdisjoint(given):
                name = min(self._own & given.keys())
                raise RefusedError(400, "reserved_feature", f"{name!r} is what this service logs")
        items = [(one.item_id, one.features) for one in asked.candidates]
        request_id = asked.request_id or str(uuid.uuid4())
        served = self._keeper.served
        scores, fallback, failed = self._scores(served, asked, items)
        if scores is None:
            ranked = _as_given(len(items))
        else:
            # One that asks again (its answer was lost) is shown the same.
            rng = np.random.default_rng([self._seed, xxh64_intdigest(request_id.encode())])
            ranked = self._exploration.rank(scores, rng)
        order = ranked.order.tolist()
        placed = [
            RankedItem(items[at][0], None if scores is None else float(scores[at]), propensity)
            for at, propensity in zip(order, ranked.propensity.tolist(), strict=True)
        ]
        answer = RankAnswer(
            request_id=request_id,
            event_time=asked.event_time if asked.event_time is not None else _now(),
            model=None if served is None or scores is None else _version(served),
            fallback=fallback,
            explored=ranked.explored,
            logged=False,
            items=placed[: asked.top],
        )
        answer.logged = self._log(asked, answer, placed, [items[at][1] for at in order])
        if failed is not None and str(failed) != self._said:
            self._said = str(failed)
            log.warning("a good request could not be scored", exc_info=failed)
        return answer

    def _scores(
        self, served: Served | None, asked: RankRequest, items: Sequence[tuple[str, Any]]
    ) -> tuple[Floats | None, str | None, Exception | None]:
        """The scores; or None, why, and the error if there was one."""
        if served is None:
            return None, self._keeper.why_none, None
        try:
            scores = served.scores(asked.user_id, asked.context, items)
        except Exception as error:
            # Most likely a value that is not of its declared type: then the log refuses it, and
            # names the field. If it does not, users are shown something nevertheless.
            return None, f"the model failed: {error}", error
        if not np.isfinite(scores).all():
            return None, "the model gave a score that is not finite", None
        return scores, None, None

    def _log(
        self,
        asked: RankRequest,
        answer: RankAnswer,
        placed: Sequence[RankedItem],
        features: Sequence[Mapping[str, Any]],
    ) -> bool:
        """Logs the items that are shown. `placed`, `features`: of all candidates, in rank order."""
        names = self._config.log
        context = dict(asked.context)
        if names.model is not None and answer.model is not None:
            context[names.model] = f"{answer.model.run}/{answer.model.number}"
        if names.explored is not None:
            context[names.explored] = answer.explored
        items = []
        for item, given in zip(placed, features, strict=True):
            used = dict(given)
            if names.score is not None and item.score is not None:
                used[names.score] = item.score
            if names.propensity is not None:
                used[names.propensity] = item.propensity
            items.append((item.item_id, used))
        of_request = answer.request_id, asked.user_id
        of_all: Any = {"context": context, "event_time": answer.event_time}
        shown = len(answer.items)
        try:
            if shown < len(items):
                # a candidate is wrong or not whatever its place
                self._features.check(*of_request, items, **of_all)
            return self._features.request(*of_request, items[:shown], **of_all)
        except InvalidEventError as error:
            raise RefusedError(400, error.reason, str(error)) from None


def _names(names: LogSection) -> list[str]:
    """The features that the service fills in itself."""
    every = (names.score, names.propensity, names.model, names.explored)
    return [name for name in every if name is not None]


def _as_given(items: int) -> Ranked:
    return Ranked(np.arange(items), np.ones(items), False)


def _version(served: Served) -> ModelVersion:
    found = served.manifest
    return ModelVersion(found.run_id, found.number, found.event_time)


def _now() -> int:
    return time.time_ns() // 1_000_000


class Instruments:
    """The service's metrics: names and units are stable, docs/ranking.md lists them."""

    def __init__(self, keeper: ModelKeeper, features: FeatureLog) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._keeper = keeper
        ProcessCollector(registry=self.registry)
        self.registry.register(LogCounts(PREFIX, lambda: features.counts))
        self._requests = Counter(
            f"{PREFIX}_requests", "Requests by outcome", ["outcome"], registry=self.registry
        )
        for outcome in ("ranked", "fallback", "refused", "disconnected", "failed"):
            self._requests.labels(outcome)
        self._seconds = Histogram(
            f"{PREFIX}_seconds",
            "Seconds from the head of a request to its answer",
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self._candidates = Counter(
            f"{PREFIX}_candidates", "Candidates of all requests", registry=self.registry
        )
        self._explored = Counter(
            f"{PREFIX}_explored", "Rankings that chance has decided", registry=self.registry
        )
        for name, text, value in (
            ("refreshes", "Exports that were taken", lambda: keeper.refreshes),
            ("refresh_failures", "Looks for an export that failed", lambda: keeper.failures),
            (
                "model_exported_timestamp_seconds",
                "When the export that serves was made, epoch; 0: none",
                lambda: self._manifest("created"),
            ),
            (
                "model_event_timestamp_seconds",
                "Event time of the newest sample that it had learned, epoch; 0: none",
                lambda: self._manifest("event_time"),
            ),
        ):
            gauge = Gauge(f"{PREFIX}_{name}", text, registry=self.registry)
            gauge.set_function(value)

    def _manifest(self, name: str) -> float:
        served = self._keeper.served
        found = None if served is None else getattr(served.manifest, name)
        return 0.0 if found is None else found / 1e3

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around a request; errors are counted."""
        begun = time.perf_counter()
        try:
            yield
        except RefusedError as error:
            gone = error.status == DISCONNECTED
            self._requests.labels("disconnected" if gone else "refused").inc()
            raise
        except Exception:
            self._requests.labels("failed").inc()
            raise
        finally:
            self._seconds.observe(time.perf_counter() - begun)

    def answered(self, answer: RankAnswer, candidates: int) -> None:
        """A request was ranked."""
        self._requests.labels("ranked" if answer.fallback is None else "fallback").inc()
        self._candidates.inc(candidates)
        self._explored.inc(answer.explored)


def routes(ranking: Ranking, instruments: Instruments, max_body_bytes: int) -> list[Route]:
    """`POST /rank`. Ranking takes a millisecond or two, and is done in the event loop: a pool of
    threads would only wait for the same interpreter.
    """
    decoder = msgspec.json.Decoder(RankRequest)

    async def rank(request: Request) -> Response:
        with instruments.timed():
            body = await body_of(request, max_body_bytes)
            try:
                asked = decoder.decode(body)
            except UNREADABLE as error:
                raise RefusedError(400, "bad_request", str(error)) from None
            answer = ranking.rank(asked)
            instruments.answered(answer, len(asked.candidates))
            return Response(msgspec.json.encode(answer), media_type=JSON)

    return [Route("/rank", rank, methods=["POST"])]


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run_command(_serve, argv, "python -m online.ranking")


def _serve(
    config: ServiceFile,
    seed: Annotated[
        int | None, typer.Option(help="Of exploration: another seed explores in other requests.")
    ] = None,
) -> int:
    """Rank candidates over HTTP by the trainer's newest model, and log the features as used.

    Exit codes: 0 ended by a signal; 1 it cannot listen; 2 the configuration is wrong.
    """
    try:
        found, pipeline = load(config)
        features = FeatureLog(found.pipeline)
    except ConfigError as error:
        print(f"ranking: {error}", file=sys.stderr)
        return 2
    try:
        listening = bound(found.server.address, found.server.port)
    except CannotListenError as error:
        print(f"ranking: {error}", file=sys.stderr)
        features.close(0)
        return 1
    keeper = ModelKeeper(
        folder(found.model, pipeline.object_storage),
        found.value,
        pipeline.schema,
        found.refresh / 1e3,
        max_candidates=found.server.max_candidates,
    )
    instruments = Instruments(keeper, features)
    ranking = Ranking(found, keeper, features, seed)
    app = application(
        routes(ranking, instruments, found.server.max_body_bytes),
        instruments.registry,
        lambda: None if keeper.served is not None else keeper.why_none,
    )
    keeper.start()
    with features:
        serve(app, listening)
    keeper.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
