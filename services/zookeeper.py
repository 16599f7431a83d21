"""A ZooKeeper server for the high availability of a local Flink cluster.

Flink 2.3 can keep what a job manager must not forget in ZooKeeper or in Kubernetes, and nowhere
else. The server's classes are inside Flink's own distribution, so no jar is added. One server, not
a quorum of three: it is for trials and tests.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services import process
from services.java import find_java_home
from services.place import LOOPBACK, Place
from services.process import ProcessId
from services.started import await_answer

_READY_DEADLINE_S = 60.0
_MAIN = "org.apache.flink.runtime.zookeeper.FlinkZooKeeperQuorumPeer"
_JVM_OPTIONS = ("-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

# Sessions may be as short as two ticks: a dead job manager is missed after its session.
_CONFIGURATION = """\
tickTime=500
dataDir={data}
clientPort={port}
clientPortAddress={address}
admin.enableServer=false
maxClientCnxns=0
4lw.commands.whitelist=ruok
"""


class ZooKeeperError(Exception):
    """The server could not be started; the message holds the end of its log."""


class ZooKeeper:
    """One server in a folder of its own, which keeps its data between starts."""

    def __init__(
        self, folder: Path, class_path: Sequence[Path], *, place: Place = LOOPBACK
    ) -> None:
        """Describe a server; nothing is started.

        Args:
            folder: for its data, configuration and log.
            class_path: Flink's `lib/*.jar`.
            place: where it runs.
        """
        self._folder = folder
        self._class_path = class_path
        self._place = place
        self._port = 0
        self._process: ProcessId | None = None
        self.log = folder / "zookeeper.log"

    @property
    def servers(self) -> str:
        """What Flink calls the quorum: `host:port`."""
        return f"{self._place.address}:{self._port}"

    @property
    def process(self) -> ProcessId | None:
        """The server's process, once it was started."""
        return self._process

    def is_running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.is_running()

    def start(self, *, tied: bool = True) -> None:
        """Start it, at the same port as before, and return when it answers.

        Raises:
            ZooKeeperError: if it ends, or does not answer within a minute.
        """
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        self._port = self._port or process.free_port()
        configuration = self._folder / "zoo.cfg"
        text = _CONFIGURATION.format(data=data, port=self._port, address=self._place.address)
        configuration.write_text(text, encoding="utf-8")
        class_path = os.pathsep.join(str(path) for path in self._class_path)
        self._process = process.start(
            [
                *self._place.prefix,
                *(find_java_home() / "bin" / "java", *_JVM_OPTIONS, "-cp", class_path, _MAIN),
                *("--zkConfigFile", configuration, "--peerId", "1"),
            ],
            log=self.log,
            environment=os.environ,
            tied=tied,
        )
        await_answer(
            self._process,
            self._answers,
            name="ZooKeeper",
            within_s=_READY_DEADLINE_S,
            log=self.log,
            stop=self.stop,
            error=ZooKeeperError,
        )

    def stop(self) -> None:
        """Stop it; its data stay."""
        if self._process is not None:
            process.stop(self._process)
        self._process = None

    def kill(self) -> None:
        """Kill it as a crash would (SIGKILL)."""
        if self._process is not None:
            process.kill(self._process)

    def note(self) -> dict[str, Any] | None:
        """What `take_over` needs to know of a server that runs."""
        return None if self._process is None else {"port": self._port, **asdict(self._process)}

    def take_over(self, note: dict[str, Any]) -> None:
        """Go on with a server that another program started, by its `note`."""
        self._port = note["port"]
        self._process = ProcessId(note["pid"], note["started"])

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self._place.address, self._port), 1) as connection:
                connection.sendall(b"ruok")
                return connection.recv(4) == b"imok"
        except OSError:
            return False
