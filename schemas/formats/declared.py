"""What a configuration says of the format of records, as it is shipped to those who decode.

Everything is here by value: a worker has none of the files that the configuration names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


class FormatError(Exception):
    """A schema or a registry is of no use. One line: what is wrong with it, and what to do."""


class RegistryError(Exception):
    """The registry gives no answer. One line: what it said, and what to do."""


def first_line(said: object) -> str:
    """The first line of what an error says, without what it quotes at length; its type if it says
    nothing.
    """
    lines = str(said).splitlines()
    return lines[0][:200] if lines else type(said).__name__


@dataclass(frozen=True)
class Registry:
    """A schema registry with Confluent's API, and records in Confluent's wire format.

    `properties`: those of Confluent's Python client, without `url`. `subjects`: a record's schema
    must be registered under one of them; none: under any.
    """

    url: str
    subjects: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Json:
    """JSON in Confluent's wire format. Records are validated by the features that are declared, not
    by the JSON Schema.
    """

    registry: Registry


@dataclass(frozen=True)
class Avro:
    """Avro's binary encoding of one datum.

    `schema` (JSON text) is the one that records are read as: with a registry the reader's (None: a
    record is read as it was written), without one the writer's, which must then be there.
    """

    schema: str | None = None
    registry: Registry | None = None


@dataclass(frozen=True)
class Protobuf:
    """Protocol Buffers.

    `descriptors`: a serialised `FileDescriptorSet`, in which `message` is the full name of the
    record's type. Without them the registry says what a record is; with both, the descriptors do,
    and the registry is asked only for what `Registry.subjects` needs.
    """

    descriptors: bytes | None = None
    message: str | None = None
    registry: Registry | None = None


Format = Json | Avro | Protobuf
