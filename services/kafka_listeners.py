"""Further listeners of the local broker: those that ask for a login, for TLS, or for both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

_MODULES = "org.apache.kafka.common.security."


@dataclass(frozen=True)
class Listener:
    """A listener on 127.0.0.1.

    `name` has capital letters only; it is what `KafkaBroker.servers` is asked by. `properties` are
    Kafka's, without the prefix of the listener.
    """

    name: str
    protocol: Literal["SSL", "SASL_PLAINTEXT", "SASL_SSL"]
    properties: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Its own lines of the broker's configuration."""
        prefix = f"listener.name.{self.name.lower()}."
        return [f"{prefix}{name}={_escaped(text)}" for name, text in self.properties.items()]


def of_users(users: Mapping[str, str]) -> dict[str, str]:
    """Properties of a SASL listener for these users (password by name), with PLAIN and SCRAM."""
    known = " ".join(f'user_{name}="{password}"' for name, password in users.items())
    scram = f"{_MODULES}scram.ScramLoginModule required;"
    return {
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "plain.sasl.jaas.config": f"{_MODULES}plain.PlainLoginModule required {known};",
        "scram-sha-256.sasl.jaas.config": scram,
        "scram-sha-512.sasl.jaas.config": scram,
    }


def protocols(listeners: Iterable[Listener]) -> str:
    """Their part of `listener.security.protocol.map`, with a comma before each."""
    return "".join(f",{one.name}:{one.protocol}" for one in listeners)


def addresses(ports: Mapping[str, int]) -> str:
    """Their part of `listeners`, by port, with a comma before each."""
    return "".join(f",{name}://127.0.0.1:{port}" for name, port in ports.items())


def _escaped(text: str) -> str:
    """As it stands in a file of properties."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")
