"""What the services have in common: how they are served, watched and ended."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import uvicorn
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from online.sender import Counts

JSON = "application/json"
#: Of configurations.
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
#: What msgspec raises for a body that is no JSON, no UTF-8, nested too deeply, or of other types.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
#: The status of a request whose client has gone before it sent all of it: nginx's number.
DISCONNECTED = 499
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
#: Seconds for requests that are being answered when the service is told to end.
_GRACE_S = 10
#: For so long a connection may be idle. Balancers keep theirs for 60 s, and a connection that is
#: closed here while a request is on its way costs that request.
_IDLE_S = 75


class RefusedError(Exception):
    """A request that is answered with an error: `status`, and `reason` and message in its body."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason

    def response(self) -> Response:
        """As JSON."""
        body = {"error": self.reason, "message": str(self)}
        return Response(msgspec.json.encode(body), self.status, media_type=JSON)


class LogCounts:
    """What became of the events of a log, as metrics; asked at each scrape.

    `lost`: what those are called that were given up.
    """

    def __init__(self, prefix: str, counts: Callable[[], Counts], lost: str = "lost") -> None:
        self._prefix, self._counts, self._lost = prefix, counts, lost

    def collect(self) -> list[GaugeMetricFamily]:
        """Called by the registry."""
        found = self._counts()
        values = {
            "accepted": found.accepted,
            "delivered": found.delivered,
            "dropped": found.dropped,
            self._lost: found.lost,
            "pending": found.pending,
            "invalid": sum(found.invalid.values()),
        }
        text = "Events of the log since the start, docs/online.md"
        return [
            GaugeMetricFamily(f"{self._prefix}_log_{name}", f"{text}: {name}", value=value)
            for name, value in values.items()
        ]


async def body_of(request: Request, max_bytes: int) -> bytes:
    """The body of a request.

    Raises RefusedError: 413 for a larger one, `DISCONNECTED` for one that nobody waits for.
    """
    found = bytearray()
    try:
        async for part in request.stream():
            found += part
            if len(found) > max_bytes:
                raise RefusedError(413, "too_large", f"the body has more than {max_bytes:,} bytes")
    except ClientDisconnect:
        raise RefusedError(DISCONNECTED, "disconnected", "the client has gone") from None
    return bytes(found)


def application(
    routes: list[Route], registry: CollectorRegistry, ready: Callable[[], str | None]
) -> Starlette:
    """An application with these routes, and `/metrics`, `/healthz` and `/readyz`.

    `ready`: why it should get no requests now, or None.
    """

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=_PROMETHEUS)

    async def healthz(_: Request) -> Response:
        return Response("ok\n")

    async def readyz(_: Request) -> Response:
        why = ready()
        return Response("ready\n") if why is None else Response(f"{why}\n", 503)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        return error.response()

    own = [Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)]
    return Starlette(routes=[*routes, *own], exception_handlers={RefusedError: refused})


class CannotListenError(Exception):
    """The address cannot be used; the message says which, why, and what to do."""


def bound(address: str, port: int) -> socket.socket:
    """A socket for `serve`. Raises CannotListenError, before anything else was begun."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((address, port))
    except OSError as error:
        made.close()
        raise CannotListenError(
            f"cannot listen on {address}:{port}: {error.strerror or error}; set server.address or"
            " server.port"
        ) from None
    return made


def serve(app: Any, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; requests that are being answered are finished first.

    `listening`: of `bound`; it is closed at the end.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    configuration = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        lifespan="off",
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = uvicorn.Server(configuration)

    def end(*_: object) -> None:
        server.should_exit = True

    for ending in (signal.SIGTERM, signal.SIGINT):
        # Uvicorn takes them while it serves, and then raises them again for whoever had them
        # before. That must not end this process: its logs have events to deliver. And one that
        # comes before uvicorn takes them must not be lost.
        signal.signal(ending, end)
    server.run(sockets=[listening])
