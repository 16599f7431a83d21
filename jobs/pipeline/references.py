"""References in tables of options, such as `${NAME}`: resolved for a job, kept for a document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from configuration import paths
from configuration.reading import Wrong
from jobs.pipeline import kafka_properties, secrets

_FILE_REFERENCE = re.compile(r"\$\{file:([^}]+)\}")


def resolved_in(
    key: str, table: Mapping[str, str], path: Path, environment: Mapping[str, str], wrong: Wrong
) -> dict[str, str]:
    """A table of free names with the references in its values replaced."""

    def one(name: str, text: str) -> str:
        try:
            return secrets.resolve(name, text, environment, path.parent)
        except secrets.MissingReferenceError as error:
            raise wrong(f"{key}.{name}", str(error)) from None

    return {name: one(name, text) for name, text in table.items()}


#: Parts of option names whose values are secrets: those that Flink itself hides in its logs.
_SENSITIVE = (
    *("password", "secret", "token", "apikey", "api-key", "auth-params", "service-key"),
    *("basic-auth", "jaas.config", "http-headers", "account.key", "access-key", "private.key"),
    *("keystore.key", "credential"),
)


def without_secrets(options: Mapping[str, str], path: Path) -> dict[str, str]:
    """The table without what is secret in it, to lie beside an output (`config.document`)."""

    def value(name: str, text: str) -> str:
        sensitive = kafka_properties.is_secret(name) or any(p in name.lower() for p in _SENSITIVE)
        if "${" in text:
            # files are named relative to the configuration
            return _FILE_REFERENCE.sub(lambda m: f"${{file:{paths.beside(path, m[1])}}}", text)
        return "${" + re.sub(r"\W", "_", name).upper() + "}" if sensitive else text

    return {name: value(name, text) for name, text in options.items()}
