"""The services as processes, and a client that asks them over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from services import process, prometheus
from services.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
#: A service imports JAX, on a machine that may be busy.
_STARTED_S = 120.0


@dataclass
class Answer:
    """What a service said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection, which stays open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, path: str, body: Any) -> Answer:
        """Raises OSError or http.client.HTTPException when the service is not there."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._ask("POST", path, data)

    def get(self, path: str) -> Answer:
        """Raises as `post`."""
        return self._ask("GET", path, None)

    def _ask(self, method: str, path: str, data: bytes | None) -> Answer:
        try:
            self._connection.request(method, path, data)
            response = self._connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()


@dataclass
class Service:
    """`python -m <module> --config <config>`, from `start` to `stop`."""

    module: str
    config: Path
    port: int
    log: Path = field(init=False)
    _process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.log = self.config.with_suffix(".log")

    def start(self) -> None:
        """Returns when it answers."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, "--config", str(self.config)],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._answers, _STARTED_S, f"{self.module} to answer")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"{self.module} ended:\n{process.tail(self.log)}")
        with contextlib.suppress(OSError, http.client.HTTPException), self.client() as client:
            return client.get("/healthz").status == 200
        return False

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        client = Client(self.port)
        try:
            yield client
        finally:
            client.close()

    def metrics(self) -> dict[str, float]:
        """All samples, by name and labels as they are written."""
        with self.client() as client:
            return prometheus.parsed(client.get("/metrics").body.decode())

    def kill(self) -> None:
        """As a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> int:
        """Asks it to end, and returns its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=60)

    def stop(self) -> None:
        """Whatever it does."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Service:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
