"""Secrets in a configuration: where they come from, and how they are kept out of what is printed.

`${NAME}` in a value stands for a variable of the environment, `${file:PATH}` for the content of a
file (without the newline at its end), which is how containers and orchestrators hand secrets over.
The value becomes a `Secret`; `Redaction` replaces whatever is secret in a text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from jobs.pipeline.jaas import login_module, quoted_for_jaas
from jobs.pipeline.kafka_properties import is_secret

_REFERENCE = re.compile(r"\$\{(file:[^}]+|[A-Za-z_][A-Za-z0-9_]*)\}")
#: Shorter ones would hide half of every text, and protect nothing.
_SHORTEST = 4
HIDDEN = "(secret)"


class Secret(str):
    """A value that had references in it. `referenced`: what they stood for."""

    __slots__ = ("referenced",)
    referenced: tuple[str, ...]


class MissingReferenceError(Exception):
    """A reference that leads nowhere; the message says which, and never what is behind one."""


def resolve(name: str, text: str, environment: Mapping[str, str], folder: Path) -> str:
    """The value of a key `name` with its references replaced; a `Secret` when there were some.

    Paths are relative to `folder`. What is put between the double quotes of a `sasl.jaas.config`
    is escaped, so that any password is legal. Raises MissingReferenceError.
    """
    found: list[str] = []

    def looked_up(match: re.Match[str]) -> str:
        value = _look_up(match[1], environment, folder)
        found.append(value)
        if name == "sasl.jaas.config" and _inside_quotes(text[: match.start()]):
            return quoted_for_jaas(value)
        return value

    resolved = _REFERENCE.sub(looked_up, text)
    if not found:
        return text
    secret = Secret(resolved)
    secret.referenced = tuple(found)
    return secret


def _look_up(reference: str, environment: Mapping[str, str], folder: Path) -> str:
    # first, so that whoever keeps the references as they are can say so for files as well
    if reference in environment:
        return environment[reference]
    if not reference.startswith("file:"):
        raise MissingReferenceError(f"${reference} is not set")
    path = folder / Path(reference.removeprefix("file:")).expanduser()
    try:
        return path.read_text().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise MissingReferenceError(f"${{{reference}}}: the file is not UTF-8") from None
    except OSError as error:
        raise MissingReferenceError(f"${{{reference}}}: {error.strerror}") from None


def _inside_quotes(before: str) -> bool:
    """Whether a double quote is open at the end of `before`."""
    return re.sub(r"\\.", "", before).count('"') % 2 == 1


def of_properties(properties: Mapping[str, str]) -> set[str]:
    """Every text in these properties that must not be shown."""
    secrets: set[str] = set()
    for name, value in properties.items():
        if isinstance(value, Secret):
            secrets |= {str(value), *value.referenced, *map(quoted_for_jaas, value.referenced)}
        if name == "sasl.jaas.config":
            module = login_module(value)
            options = {} if module is None else module.options
            plain = {text for option, text in options.items() if is_secret(option)}
            secrets |= plain | set(map(quoted_for_jaas, plain)) | {str(value)}
        elif is_secret(name) and not name.endswith((".url", ".location", ".file", ".class")):
            secrets.add(str(value))
    return secrets


class Redaction(logging.Filter):
    """Hides secrets in texts; as a filter of a log handler, in its messages and traces."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        # the longest first, so that no part of one is left when another is inside it
        listed = sorted({s for s in secrets if len(s) >= _SHORTEST}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, listed))) if listed else None

    def __call__(self, text: str) -> str:
        """The text with every secret replaced."""
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def filter(self, record: logging.LogRecord) -> bool:
        """Hide secrets in a log record, traceback included. Always True: no record is dropped."""
        record.msg, record.args = self(record.getMessage()), None
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = self(logging.Formatter().formatException(record.exc_info))
        return True
