"""What a schema registry says of the id that a record carries.

A schema that is registered never changes, so each is asked for once. A registry that cannot be
asked is no fault of the record: `RegistryError` is then raised, which fails the join; Flink starts
it again from its last checkpoint, and no record is lost. The archive needs no schema to keep a
record, and goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from schemas.bad_record import BadRecord
from schemas.formats.declared import FormatError, Registry, RegistryError, first_line
from schemas.formats.framing import SchemaName

#: Properties of Confluent's client that are numbers, with what holds where the file is silent. The
#: client's own default for `timeout` (s) is to wait without end.
_NUMBERS = {
    "timeout": 10,
    "max.retries": 5,
    "retries.wait.ms": 500,
    "retries.max.wait.ms": 5_000,
    "cache.capacity": 1_000,
    "cache.latest.ttl.sec": 60,
}
#: For so long (s) an id that the registry did not know is not asked for again.
_UNKNOWN_FOR_S = 30.0
#: For so long (s) a registry that could not be asked is left alone: a try takes about as long.
_DOWN_FOR_S = 30.0
#: So many unknown ids are remembered: damaged records may carry any number.
_MAX_UNKNOWN = 10_000
_NO_SCHEMA, _NO_SUBJECT, _NO_VERSION = 40403, 40401, 40402

_T = TypeVar("_T")


@dataclass(frozen=True)
class Registered:
    """A registered schema. `kind`: `AVRO`, `PROTOBUF` or `JSON`.

    `references`: the texts of the schemas that it uses, by the name that it uses; each stands after
    those that it uses itself.
    """

    kind: str
    text: str
    references: dict[str, str]


class RegistryClient:
    """Asks one registry. Not for several threads at once."""

    def __init__(self, registry: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises FormatError for properties that Confluent's client does not take."""
        self._registry = registry
        self._clock = clock
        self._known: dict[SchemaName, Registered] = {}
        self._unknown: dict[SchemaName, tuple[float, str, str]] = {}
        self._down: tuple[float, str] | None = None
        properties: dict[str, Any] = dict(_NUMBERS)
        for name, value in registry.properties.items():
            properties[name] = _number(name, value) if name in _NUMBERS else value
        try:
            self._client = SchemaRegistryClient({**properties, "url": registry.url})
        except (ValueError, TypeError, OSError) as error:
            raise FormatError(f"registry: {error}") from None

    def registered(self, schema_id: SchemaName) -> Registered:
        """The schema of an id or a GUID.

        Raises BadRecord: `unknown_schema` for one that the registry does not know, `wrong_schema`
        for one that is registered under none of the subjects. Raises RegistryError.
        """
        known = self._known.get(schema_id)
        if known is not None:
            return known
        if schema_id in self._unknown:
            since, reason, message = self._unknown[schema_id]
            if self._clock() - since < _UNKNOWN_FOR_S:
                raise BadRecord(reason, message)
        if self._down is not None and self._clock() - self._down[0] < _DOWN_FOR_S:
            raise RegistryError(self._down[1])
        try:
            known = self._ask(schema_id)
            self._down = None
        except RegistryError as error:
            self._down = (self._clock(), str(error))
            raise
        except BadRecord as bad:
            if len(self._unknown) >= _MAX_UNKNOWN:
                self._unknown.clear()
            self._unknown[schema_id] = (self._clock(), bad.reason, bad.message)
            raise
        self._unknown.pop(schema_id, None)
        self._known[schema_id] = known
        return known

    def check(self, kind: str) -> None:
        """That the registry answers, and that the newest schema of each subject is of this kind.

        Raises FormatError or RegistryError.
        """
        if not self._registry.subjects:
            self._asked(self._client.get_subjects)
        for subject in self._registry.subjects:
            registered = self.newest(subject).kind
            if registered != kind:
                raise FormatError(
                    f"the schema of {subject!r} is {registered}, and the format says {kind}"
                )

    def newest(self, subject: str) -> Registered:
        """The latest schema of a subject. Raises FormatError or RegistryError."""
        try:
            found = self._asked(partial(self._client.get_latest_version, subject)).schema
        except _AbsentError:
            raise FormatError(
                f"registry.subject: {self._registry.url} has no subject {subject!r}; the usual name"
                " is that of the topic with -value"
            ) from None
        try:
            return self._with_references(found)
        except BadRecord as bad:
            raise FormatError(bad.message) from None

    def _ask(self, schema_id: SchemaName) -> Registered:
        by_guid = isinstance(schema_id, str)
        get = self._client.get_schema_by_guid if by_guid else self._client.get_schema
        try:
            # a registry that compiles Protocol Buffers itself is not asked to: not all can
            schema = self._asked(lambda: get(schema_id), by_guid=by_guid)
        except _AbsentError:
            raise BadRecord(
                "unknown_schema", f"{self._registry.url} knows no schema {schema_id}"
            ) from None
        if self._registry.subjects:
            self._check_subject(schema_id, schema)
        return self._with_references(schema)

    def _check_subject(self, schema_id: SchemaName, schema: Any) -> None:
        wanted = " or ".join(self._registry.subjects)
        if isinstance(schema_id, str):
            # the subjects of a GUID cannot be asked for
            if not any(self._has(subject, schema) for subject in self._registry.subjects):
                raise BadRecord(
                    "wrong_schema", f"schema {schema_id} is not registered under {wanted}"
                )
            return
        versions = self._asked(lambda: self._client.get_schema_versions(schema_id))
        under = sorted({version.subject for version in versions})
        if not set(under) & set(self._registry.subjects):
            raise BadRecord(
                "wrong_schema",
                f"schema {schema_id} is registered under {', '.join(under) or 'no subject'},"
                f" not under {wanted}",
            )

    def _has(self, subject: str, schema: Any) -> bool:
        # deleted versions count, as they do for an id
        try:
            self._asked(partial(self._client.lookup_schema, subject, schema, deleted=True))
        except _AbsentError:
            return False
        return True

    def _with_references(self, schema: Any) -> Registered:
        references: dict[str, str] = {}
        self._follow(schema.references or (), references)
        return Registered(schema.schema_type, schema.schema_str, references)

    def _follow(self, references: Any, found: dict[str, str]) -> None:
        """Adds what is referred to, and before it what that refers to itself."""
        for reference in references:
            if reference.name in found:
                continue
            try:
                version = self._asked(
                    partial(self._client.get_version, reference.subject, reference.version)
                )
            except _AbsentError:
                raise BadRecord(
                    "wrong_schema",
                    f"the schema refers to version {reference.version} of {reference.subject!r},"
                    " which the registry does not have",
                ) from None
            self._follow(version.schema.references or (), found)
            found[reference.name] = version.schema.schema_str

    def _asked(self, ask: Callable[[], _T], *, by_guid: bool = False) -> _T:
        """The answer. Raises RegistryError, and _AbsentError for what is not registered."""
        url = self._registry.url
        try:
            return ask()
        except SchemaRegistryError as error:
            if error.error_code in (_NO_SCHEMA, _NO_SUBJECT, _NO_VERSION):
                raise _AbsentError from None
            hint = ""
            if error.http_status_code in (401, 403):
                hint = "; set basic.auth.user.info, or a token, in registry.properties"
            elif error.http_status_code == 404 and by_guid:
                hint = "; does it know schemas by their GUIDs? Producers can write ids instead"
            elif error.http_status_code == 404:
                hint = "; is this the address of a schema registry, path included?"
            raise RegistryError(
                f"the schema registry {url} answered with HTTP status {error.http_status_code}:"
                f" {first_line(error.error_message)}{hint}"
            ) from None
        except Exception as error:
            # of whichever HTTP library the client has found, or of what the answer was read with
            raise RegistryError(
                f"the schema registry {url} gives no answer: {first_line(error)}; start it, or"
                " correct registry.url"
            ) from None


class _AbsentError(Exception):
    """The registry is there, and does not have it."""


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise FormatError(f"registry.properties: {name} = {value!r} is no number") from None
    if number < 0:
        raise FormatError(f"registry.properties: {name} = {value!r} is below 0")
    return number
