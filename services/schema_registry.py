"""A schema registry on loopback: Apicurio, which has Confluent's API beside its own.

What it knows is in its memory, and gone when it stops. It is for trials and tests.
"""

from __future__ import annotations

import os
from pathlib import Path

import requests

from services import process, programs
from services.java import find_java_home
from services.process import ProcessId
from services.started import Started, await_answer

_READY_DEADLINE_S = 180.0
_ASK_S = 5.0
_JVM_OPTIONS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class SchemaRegistryError(Exception):
    """The registry could not be started; the message holds the end of its log."""


class SchemaRegistry(Started):
    """One registry, with its log in a folder."""

    def __init__(self, folder: Path) -> None:
        """Describe a registry; nothing is started."""
        self._folder = folder
        self.log = folder / "schema-registry.log"
        self._port = 0
        self._process: ProcessId | None = None

    @property
    def url(self) -> str:
        """Where Confluent's API is."""
        return f"http://127.0.0.1:{self._port}/apis/ccompat/v7"

    def start(self) -> None:
        """Start it, at the same port as before, and return when it answers.

        Raises SchemaRegistryError if it ends or does not answer in time, and JarError if it cannot
        be fetched.
        """
        home = programs.folder_of("schema-registry")
        (jar,) = home.glob("*-runner.jar")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._port = self._port or process.free_port()
        self._process = process.start(
            [
                *(find_java_home() / "bin" / "java", *_JVM_OPTIONS),
                *(f"-Dquarkus.http.port={self._port}", "-Dquarkus.http.host=127.0.0.1"),
                *("-jar", jar),
            ],
            log=self.log,
            environment=os.environ,
            tied=True,
        )
        await_answer(
            self._process,
            self._answers,
            name="the schema registry",
            within_s=_READY_DEADLINE_S,
            log=self.log,
            stop=self.stop,
            error=SchemaRegistryError,
        )

    def stop(self) -> None:
        """Stop it; what it knew is gone."""
        if self._process is not None:
            process.stop(self._process)
        self._process = None

    def _answers(self) -> bool:
        try:
            answer = requests.get(f"{self.url}/subjects", timeout=_ASK_S)
        except requests.RequestException:
            return False
        return bool(answer.status_code == requests.codes.ok)
