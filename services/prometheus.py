"""A Prometheus on loopback that scrapes given processes and evaluates given rules, for tests.

It is the machine's own (`apt-get install prometheus`): nothing is fetched.
"""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services import process
from services.process import ProcessId
from services.started import Started
from services.waiting import DeadlineError, wait_until

_READY_DEADLINE_S = 30.0
_REQUEST_DEADLINE_S = 15.0


class PrometheusError(Exception):
    """It did not start, or refused a query; the message says why."""


def is_installed() -> bool:
    """Whether the machine has Prometheus and its promtool."""
    return shutil.which("prometheus") is not None and shutil.which("promtool") is not None


def parsed(text: str) -> dict[str, float]:
    """The values in Prometheus' text format, by name and labels as they stand there."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@dataclass(frozen=True)
class Series:
    """One series of an answer: its labels, and (seconds since the epoch, value) in order."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]

    @property
    def value(self) -> float:
        """The latest."""
        return self.points[-1][1]


class Prometheus(Started):
    """One server with all that is its own in one folder. A context manager: runs within it."""

    def __init__(
        self,
        folder: Path,
        targets: Sequence[str],
        *,
        job: str = "flink",
        rules: Sequence[Path] = (),
        every_s: int = 2,
    ) -> None:
        """Describe a server; nothing is started.

        Args:
            folder: for its configuration, data and log.
            targets: addresses (`host:port`) to scrape; see `scrape`.
            job: the label `job` of all that they show.
            rules: files of alert rules.
            every_s: how often it scrapes, and evaluates the rules. A scrape may take as long.
        """
        self._folder = folder
        self._targets = folder / "targets.json"
        self._job = job
        self._rules = [str(path.resolve()) for path in rules]
        self._every_s = every_s
        self._port = 0
        self._process: ProcessId | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.scrape(targets)

    def scrape(self, targets: Sequence[str]) -> None:
        """Scrape these from now on, and no others; a running server notices within seconds."""
        # replaced, for it must never be read half-written
        new = self._targets.with_suffix(".new")
        new.write_text(json.dumps([{"targets": list(targets)}]), encoding="utf-8")
        new.replace(self._targets)

    def start(self) -> None:
        """Start it, at a free port. Raises PrometheusError if it does not become ready."""
        self._port = process.free_port()
        every = f"{self._every_s}s"
        # JSON is YAML
        configuration = {
            "global": {
                "scrape_interval": every,
                "scrape_timeout": every,
                "evaluation_interval": every,
            },
            "rule_files": self._rules,
            "scrape_configs": [
                {
                    "job_name": self._job,
                    "file_sd_configs": [{"files": [str(self._targets)], "refresh_interval": "1s"}],
                }
            ],
        }
        file = self._folder / "prometheus.yml"
        file.write_text(json.dumps(configuration), encoding="utf-8")
        log = self._folder / "prometheus.log"
        self._process = process.start(
            [
                "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            log=log,
            environment=os.environ,
            tied=True,
        )
        try:
            wait_until(self._is_ready, _READY_DEADLINE_S, "Prometheus to be ready")
        except DeadlineError as error:
            self.stop()
            raise PrometheusError(f"{error}; its log ends:\n{process.tail(log)}") from error

    def stop(self) -> None:
        """Stop it; its data stay."""
        if self._process is not None:
            process.stop(self._process)
            self._process = None

    def query(self, expression: str) -> list[Series]:
        """The series that an expression has now. Raises PrometheusError for a wrong one."""
        found = self._get("query", query=expression)
        if found["resultType"] == "scalar":
            return [Series({}, (_point(found["result"]),))]
        return [Series(one["metric"], (_point(one["value"]),)) for one in found["result"]]

    def query_range(self, expression: str, start: float, end: float, step_s: float) -> list[Series]:
        """The series that an expression has between two times (seconds since the epoch)."""
        found = self._get("query_range", query=expression, start=start, end=end, step=step_s)
        return [
            Series(one["metric"], tuple(_point(point) for point in one["values"]))
            for one in found["result"]
        ]

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        return {
            alert["labels"]["alertname"]
            for alert in self._get("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def _is_ready(self) -> bool:
        if self._process is None or not self._process.is_running():
            raise PrometheusError(
                f"it ended; its log ends:\n{process.tail(self._folder / 'prometheus.log')}"
            )
        try:
            self._read("/-/ready")
        except OSError:
            return False
        return True

    def _get(self, what: str, **parameters: Any) -> Any:
        path = f"/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            return json.loads(self._read(path))["data"]
        except urllib.error.HTTPError as error:
            answer = error.read().decode(errors="replace")
            raise PrometheusError(f"{what} {parameters}: {answer}") from error

    def _read(self, path: str) -> bytes:
        # Loopback: a proxy of the environment has nothing to do with it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://127.0.0.1:{self._port}{path}"
        with opener.open(url, timeout=_REQUEST_DEADLINE_S) as response:
            return bytes(response.read())


def _point(pair: Sequence[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])
