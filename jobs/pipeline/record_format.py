"""`[sources.*.format]`: the format of a topic's records, and how it becomes what is shipped.

Schema files are read when the job is made, since a cluster does not have them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from configuration import paths
from configuration.reading import ConfigError, Section, Wrong
from schemas.formats import declared
from schemas.formats.declared import FormatError, RegistryError

# What reads Avro and Protocol Buffers is imported when it is needed: few pipelines do.
if TYPE_CHECKING:
    from schemas.formats.transcode import Transcoder


class RegistrySection(Section, frozen=True, kw_only=True):
    """`[sources.*.format.registry]`: a schema registry with Confluent's API.

    Records are then in Confluent's wire format. `url`: several with commas between them. `subject`:
    a name or several; a record whose schema is registered under none of them is rejected.
    `properties` are those of Confluent's Python client, with references as in `KafkaSource`.
    """

    url: str
    subject: str | list[str] | None = None
    properties: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The names in `subject`."""
        return (self.subject,) if isinstance(self.subject, str) else tuple(self.subject or ())


class JsonFormat(Section, frozen=True, kw_only=True, tag="json", tag_field="type"):
    """`type = "json"`: JSON after the id of a schema. Plain JSON needs no `format`."""

    registry: RegistrySection


class AvroFormat(Section, frozen=True, kw_only=True, tag="avro", tag_field="type"):
    """`type = "avro"`: one datum a record.

    `schema`: an `.avsc` file, beside the TOML file; the writer's, or with `registry` the reader's.
    """

    schema: str | None = None
    registry: RegistrySection | None = None


class ProtobufFormat(Section, frozen=True, kw_only=True, tag="protobuf", tag_field="type"):
    """`type = "protobuf"`: one message a record.

    `descriptor_set`: a file that `protoc --include_imports --descriptor_set_out=FILE` has made,
    beside the TOML file. `message`: the full name of the message in it.
    """

    descriptor_set: str | None = None
    message: str | None = None
    registry: RegistrySection | None = None


FormatSection = JsonFormat | AvroFormat | ProtobufFormat
#: The keys that name files.
_FILES = ("schema", "descriptor_set")
#: What a registry calls a schema of each format.
_KINDS = {JsonFormat: "JSON", AvroFormat: "AVRO", ProtobufFormat: "PROTOBUF"}


def resolved(
    key: str,
    section: FormatSection,
    path: Path,
    references: Callable[[str, Mapping[str, str]], dict[str, str]],
    wrong: Wrong,
) -> FormatSection:
    """The section with absolute paths, and with references in the registry's properties replaced
    by `references` (the key of a table, and the table).

    Raises ConfigError for a schema that is of no use, and for keys that say too little.
    """
    changes: dict[str, object] = {}
    for name in _FILES:
        text = getattr(section, name, None)
        if text is not None:
            try:
                changes[name] = paths.beside(path, text)
            except ValueError as error:
                raise wrong(f"{key}.{name}", str(error)) from None
    if section.registry is not None:
        name = f"{key}.registry.properties"
        properties = references(name, section.registry.properties)
        changes["registry"] = msgspec.structs.replace(section.registry, properties=properties)
    section = msgspec.structs.replace(section, **changes)
    try:
        transcoder(section)
    except FormatError as error:
        raise wrong(key, str(error)) from None
    except OSError as error:
        raise wrong(key, f"{error.filename}: {error.strerror}") from None
    return section


def document(section: Mapping[str, object], path: Path) -> dict[str, object]:
    """The table of a format with absolute paths."""
    return {
        name: paths.beside(path, value) if name in _FILES and isinstance(value, str) else value
        for name, value in section.items()
    }


def of(section: FormatSection) -> declared.Format:
    """What is shipped to those who decode. Raises OSError and FormatError for its files."""
    if isinstance(section, JsonFormat):
        return declared.Json(_registry(section.registry))
    registry = None if section.registry is None else _registry(section.registry)
    if isinstance(section, AvroFormat):
        if section.schema is None:
            return declared.Avro(None, registry)
        try:
            return declared.Avro(Path(section.schema).read_text(encoding="utf-8"), registry)
        except UnicodeDecodeError:
            raise FormatError(f"{section.schema} is not UTF-8") from None
    descriptors = None
    if section.descriptor_set is not None:
        descriptors = Path(section.descriptor_set).read_bytes()
    return declared.Protobuf(descriptors, section.message, registry)


def names_schemas(section: FormatSection | None) -> bool:
    """Whether each record says which schema of a registry it was written with."""
    return section is not None and section.registry is not None


def transcoder(section: FormatSection) -> Transcoder:
    """What makes JSON of records. Raises OSError and FormatError for the files of the section."""
    from schemas.formats import transcode

    return transcode.transcoder(of(section))


def _registry(section: RegistrySection) -> declared.Registry:
    return declared.Registry(section.url, section.subjects, dict(section.properties))


def check(key: str, section: FormatSection) -> None:
    """Asks the registry whether it has what the job will need. Raises ConfigError."""
    if section.registry is None:
        return
    from schemas.formats.registry import RegistryClient

    try:
        RegistryClient(_registry(section.registry)).check(_KINDS[type(section)])
    except (FormatError, RegistryError) as error:
        raise ConfigError(f"{key}: {error}") from None
