"""Several Kafka brokers that replicate each other, each of them a controller too (KRaft)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from services import kafka_programs, process
from services.kafka_programs import BrokerError
from services.place import LOOPBACK, Place
from services.process import ProcessId
from services.started import Started
from services.waiting import DeadlineError, wait_until

_READY_DEADLINE_S = 90.0
_JVM_OPTIONS = ("-Xms96m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

# How soon a dead broker is missed: session and election timeouts are a few seconds.
_PROPERTIES = """\
process.roles=broker,controller
node.id={node}
listeners=PLAINTEXT://{address}:{port},CONTROLLER://{address}:{controller_port}
advertised.listeners=PLAINTEXT://{address}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.quorum.voters={voters}
log.dirs={data}
auto.create.topics.enable=false
log.retention.ms=-1
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=1
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=1
min.insync.replicas={in_sync}
unclean.leader.election.enable=false
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000
controller.quorum.election.timeout.ms=1000
controller.quorum.fetch.timeout.ms=2000
replica.lag.time.max.ms=5000
group.initial.rebalance.delay.ms=0
"""


class KafkaCluster(Started):
    """Brokers 1 to n; a topic has a replica on at most three, and two must have a record."""

    def __init__(self, folder: Path, *, places: Sequence[Place] = (LOOPBACK,) * 3) -> None:
        """Describe the brokers; nothing is started.

        Args:
            folder: for data, configuration and logs; the topics live in it.
            places: where each broker runs; so many there are.
        """
        self.folder = folder.resolve()
        self._places = dict(enumerate(places, start=1))
        self._ports: dict[int, tuple[int, int]] = {}
        self._processes: dict[int, ProcessId] = {}

    @property
    def nodes(self) -> tuple[int, ...]:
        """The numbers of all brokers, those that are down included."""
        return tuple(self._places)

    @property
    def bootstrap_servers(self) -> str:
        """The addresses of all brokers."""
        return self._servers(self.nodes)

    def process(self, node: int) -> ProcessId:
        """The process of a broker; the one that ran last if it is down."""
        return self._processes[node]

    def log(self, node: int) -> Path:
        """What a broker has logged."""
        return self.folder / f"{node}" / "broker.log"

    def start(self) -> None:
        """Start all brokers and return when all of them are known to the cluster.

        Raises:
            BrokerError: if one ends, or they are not ready within 90 seconds.
            JarError, JavaError: if the set-up has not been run.
        """
        cluster_id = kafka_programs.new_cluster_id()
        for node in self.nodes:
            self._ports[node] = (process.free_port(), process.free_port())
        for node in self.nodes:
            self._configure(node, cluster_id)
        for node in self.nodes:
            self.start_node(node)
        try:
            self.wait_until_whole(_READY_DEADLINE_S)
        except (DeadlineError, BrokerError) as error:
            logs = "\n".join(process.tail(self.log(node)) for node in self.nodes)
            self.stop()
            raise BrokerError(f"{error}; the logs end:\n{logs}") from error

    def start_node(self, node: int) -> None:
        """Start one broker, without waiting for it."""
        home = self.folder / f"{node}"
        self._processes[node] = process.start(
            [*self._java(node), "kafka.Kafka", home / "server.properties"],
            log=self.log(node),
            environment=os.environ,
            tied=True,
        )

    def wait_until_whole(self, deadline_s: float = _READY_DEADLINE_S) -> None:
        """Wait until all brokers are up and hold all replicas of all partitions.

        Raises:
            BrokerError: if the process of one has ended.
            DeadlineError: after `deadline_s` seconds.
        """

        def whole() -> bool:
            for node, one in self._processes.items():
                if not one.is_running():
                    raise BrokerError(f"broker {node} ended; see {self.log(node)}")
            described = self._described(self.nodes)
            if described is None or described[0] != set(self.nodes):
                return False
            return all(replicas == in_sync for _, replicas, in_sync in described[1].values())

        wait_until(whole, deadline_s, "all brokers to have all replicas", every_s=0.3)

    def leader(
        self, topic: str, partition: int, *, asking: Sequence[int] | None = None
    ) -> int | None:
        """The broker that leads a partition, as one knows that answers; None: none, or no answer.

        Args:
            topic: of the partition.
            partition: its number.
            asking: the brokers to ask; all if it is None.
        """
        described = self._described(self.nodes if asking is None else asking)
        found = None if described is None else described[1].get((topic, partition))
        return None if found is None or found[0] < 0 else found[0]

    def kill(self, node: int) -> None:
        """Kill a broker as a crash would (SIGKILL)."""
        process.kill(self._processes[node])

    def stop_node(self, node: int) -> None:
        """Stop one broker in good order: it hands over what it leads."""
        process.stop(self._processes[node])

    def stop(self) -> None:
        """Stop all brokers, by force if they take too long."""
        process.stop(*self._processes.values())

    def create_topic(
        self, name: str, *, partitions: int, settings: Mapping[str, str] | None = None
    ) -> None:
        """Create a topic with replicas on at most three brokers; see `kafka_programs`."""
        kafka_programs.create_topic(
            *(self.bootstrap_servers, name),
            partitions=partitions,
            replicas=self._replicas,
            settings=settings,
        )

    # --- inside -------------------------------------------------------------------------

    @property
    def _replicas(self) -> int:
        return min(3, len(self._places))

    def _java(self, node: int) -> list[str | Path]:
        command = kafka_programs.java(self.folder / f"{node}", _JVM_OPTIONS)
        return [*self._places[node].prefix, *command]

    def _configure(self, node: int, cluster_id: str) -> None:
        home = self.folder / f"{node}"
        home.mkdir(parents=True)
        properties = home / "server.properties"
        port, controller_port = self._ports[node]
        voters = ",".join(
            f"{other}@{place.address}:{self._ports[other][1]}"
            for other, place in self._places.items()
        )
        text = _PROPERTIES.format(
            node=node,
            address=self._places[node].address,
            port=port,
            controller_port=controller_port,
            voters=voters,
            data=home / "data",
            replicas=self._replicas,
            in_sync=min(2, self._replicas),
        )
        properties.write_text(text, encoding="utf-8")
        kafka_programs.format_storage(self._java(node), cluster_id, properties)

    def _servers(self, nodes: Sequence[int]) -> str:
        return ",".join(f"{self._places[n].address}:{self._ports[n][0]}" for n in nodes)

    def _described(
        self, nodes: Sequence[int]
    ) -> tuple[set[int], dict[tuple[str, int], tuple[int, set[int], set[int]]]] | None:
        """The brokers that are up; by partition its leader, replicas, and those in sync."""
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError

        try:
            admin = KafkaAdminClient(
                bootstrap_servers=self._servers(nodes),
                bootstrap_timeout_ms=2000,
                request_timeout_ms=3000,
            )
        except (KafkaError, OSError):
            return None
        try:
            listed = admin.describe_cluster()["brokers"]
            up = {int(broker["broker_id"]) for broker in listed if not broker["is_fenced"]}
            partitions = {
                (str(topic["name"]), int(p["partition_index"])): (
                    int(p["leader_id"]),
                    set(p["replica_nodes"]),
                    set(p["isr_nodes"]),
                )
                for topic in admin.describe_topics()
                for p in topic["partitions"]
            }
        except (KafkaError, OSError):
            return None
        finally:
            admin.close()
        return up, partitions
