"""A real Kafka broker on loopback: one node, KRaft, from the locked jars.

python -m services.kafka_broker up|status|down
with KafkaBroker(folder) as broker: ... broker.bootstrap_servers
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from services import kafka_programs, process
from services.jars import JarError
from services.java import JavaError
from services.kafka_listeners import Listener, addresses, of_users, protocols
from services.kafka_programs import BrokerError
from services.process import ProcessId
from services.started import Started, await_answer

RUN_FOLDER = Path(__file__).resolve().parents[1] / ".run" / "kafka"
USUAL_PORT = 9092

_READY_DEADLINE_S = 60.0
_JVM_OPTIONS = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}{more}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{more}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}
controller.quorum.voters=1@127.0.0.1:{controller_port}
log.dirs={data}
# A misspelt topic must be an error, not a new topic.
auto.create.topics.enable=false
# Event times are CreateTime; topics of old events would be emptied by retention.
log.retention.ms=-1
# One node: internal topics cannot have the usual three replicas.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
"""


class KafkaBroker(Started):
    """One broker in a folder of its own: data, configuration, log, and who runs it."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        users: Mapping[str, str] | None = None,
        listeners: Sequence[Listener] = (),
        properties: Mapping[str, str] | None = None,
        java_options: Sequence[str] = (),
    ) -> None:
        """Describe a broker; nothing is started.

        Args:
            folder: kept between runs; the topics live in it.
            port: the port wanted on 127.0.0.1; a free one if it is 0 or taken.
            users: password by user name, for a listener `LOGIN` that takes SASL_PLAINTEXT with
                PLAIN or SCRAM. Those of SCRAM are written when the folder is new, and not changed
                later. Names and passwords have letters and digits only.
            listeners: further ones; one of them may be another `LOGIN`.
            properties: Kafka's, added to those of the broker.
            java_options: options of its Java process.
        """
        self._users = dict(users or {})
        named = {one.name: one for one in listeners}
        if self._users:
            named.setdefault("LOGIN", Listener("LOGIN", "SASL_PLAINTEXT", of_users(self._users)))
        self._listeners = tuple(named.values())
        self._ports: dict[str, int] = {}
        self._properties = dict(properties or {})
        self._java_options = tuple(java_options)
        self.folder = folder.resolve()
        self.log = self.folder / "broker.log"
        self.port = port
        self._process: ProcessId | None = None
        self._note = self.folder / "running.json"

    @classmethod
    def attach(cls, folder: Path = RUN_FOLDER) -> KafkaBroker | None:
        """Return the broker that an earlier ``start(tied=False)`` left running, if it does."""
        broker = cls(folder)
        if not broker._note.exists():
            return None
        note = json.loads(broker._note.read_text(encoding="utf-8"))
        broker.port = note["port"]
        broker._process = ProcessId(**note["process"])
        return broker if broker.is_running() else None

    @property
    def bootstrap_servers(self) -> str:
        """The address of the listener without passwords, on loopback."""
        return f"127.0.0.1:{self.port}"

    def servers(self, listener: str) -> str:
        """The address of a further listener, by its name."""
        if listener not in self._ports:
            raise BrokerError(f"this broker was not started with a listener {listener}")
        return f"127.0.0.1:{self._ports[listener]}"

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The broker's process, if it was started."""
        return () if self._process is None else (self._process.pid,)

    def is_running(self) -> bool:
        """Whether the broker's process runs."""
        return self._process is not None and self._process.is_running()

    def start(self, *, tied: bool = True) -> None:
        """Start the broker and return when it answers.

        Args:
            tied: whether it ends with this process, however that ends.

        Raises:
            BrokerError: if it ends or does not answer within a minute.
            JarError, JavaError: if the set-up has not been run.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = process.free_port(self.port)
        properties = self.folder / "server.properties"
        self._ports = {one.name: process.free_port() for one in self._listeners}
        text = _PROPERTIES.format(
            port=self.port,
            controller_port=process.free_port(),
            more=addresses(self._ports),
            protocols=protocols(self._listeners),
            # Backslash and friends are special in properties, spaces in values are not.
            data=str(self.folder / "data").replace("\\", "\\\\"),
        )
        lines = [line for listener in self._listeners for line in listener.lines()]
        lines += [f"{name}={value}" for name, value in self._properties.items()]
        text += "\n".join([*lines, ""])
        properties.write_text(text, encoding="utf-8")
        command = kafka_programs.java(self.folder, [*_JVM_OPTIONS, *self._java_options])
        self._format(command, properties)
        self._process = process.start(
            [*command, "kafka.Kafka", properties],
            log=self.log,
            environment=os.environ,
            tied=tied,
        )
        await_answer(
            self._process,
            self._answers,
            name="the Kafka broker",
            within_s=_READY_DEADLINE_S,
            log=self.log,
            stop=self.stop,
            error=BrokerError,
        )
        if not tied:
            note = {"process": asdict(self._process), "port": self.port}
            self._note.write_text(json.dumps(note), encoding="utf-8")

    def stop(self) -> None:
        """Stop the broker, by force if it takes too long; its data stays."""
        if self._process is not None:
            process.stop(self._process)
        self._process = None
        self._note.unlink(missing_ok=True)

    def create_topic(
        self, name: str, *, partitions: int = 1, settings: Mapping[str, str] | None = None
    ) -> None:
        """Create a topic with one replica; see `kafka_programs.create_topic`."""
        kafka_programs.create_topic(
            self.bootstrap_servers, name, partitions=partitions, replicas=1, settings=settings
        )

    def _format(self, command: Sequence[str | Path], properties: Path) -> None:
        """Give the data folder its cluster id; an existing one keeps its own."""
        if (self.folder / "data" / "meta.properties").exists():
            return
        users: list[str] = []
        for name, password in self._users.items():
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                users += ["--add-scram", f"{mechanism}=[name={name},password={password}]"]
        new_id = kafka_programs.new_cluster_id()
        kafka_programs.format_storage(command, new_id, properties, *users)

    def _answers(self) -> bool:
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError

        try:
            admin = KafkaAdminClient(
                bootstrap_servers=self.bootstrap_servers,
                bootstrap_timeout_ms=1000,
                request_timeout_ms=2000,
            )
        except (KafkaError, OSError):
            return False
        try:
            return bool(admin.describe_cluster())
        except (KafkaError, OSError):
            return False
        finally:
            admin.close()


def _up(port: int) -> int:
    running = KafkaBroker.attach()
    if running is None:
        running = KafkaBroker(RUN_FOLDER, port=port)
        print("kafka: starting ...", flush=True)
        running.start(tied=False)
        if port != running.port:
            print(f"kafka: port {port} is taken")
    print(f"kafka: up, bootstrap.servers={running.bootstrap_servers}")
    return 0


def _status() -> int:
    running = KafkaBroker.attach()
    if running is None:
        print("kafka: not running")
        return 3
    print(f"kafka: up, bootstrap.servers={running.bootstrap_servers}, log {running.log}")
    return 0


def _down(delete: bool) -> int:
    running = KafkaBroker.attach()
    if running is not None:
        running.stop()
    print("kafka: stopped" if running is not None else "kafka: was not running")
    if delete:
        shutil.rmtree(RUN_FOLDER, ignore_errors=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (3: not running, as with services)."""
    parser = argparse.ArgumentParser(
        prog="python -m services.kafka_broker",
        description="A Kafka broker on loopback, from the locked jars.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start it, unless it runs")
    up.add_argument("--port", type=int, default=USUAL_PORT, help="default: %(default)s")
    commands.add_parser("status", help="say whether it runs, and where")
    down = commands.add_parser("down", help="stop it")
    down.add_argument("--delete", action="store_true", help="delete its topics, too")
    options = parser.parse_args(arguments)
    try:
        match options.command:
            case "up":
                return _up(options.port)
            case "down":
                return _down(options.delete)
            case _:
                return _status()
    except (BrokerError, JarError, JavaError) as error:
        print(f"kafka: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
