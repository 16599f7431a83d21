"""Kafka's `sasl.jaas.config`: a login module and its options, read and quoted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LoginModule:
    """The entry of a `sasl.jaas.config`. `rest`: its text after the class name."""

    name: str
    options: dict[str, str]
    rest: str


_QUOTED = r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'"
_ENTRY = re.compile(
    rf"\s*(?P<name>[\w.$]+)(?P<rest>\s+(?:required|requisite|sufficient|optional)\b"
    rf"(?P<options>(?:\s+[\w.-]+\s*=\s*(?:{_QUOTED}|[^\s;\"']+))*)\s*;\s*)",
    re.IGNORECASE,
)
_OPTION = re.compile(rf"([\w.-]+)\s*=\s*({_QUOTED}|[^\s;\"']+)")


def login_module(jaas: str) -> LoginModule | None:
    """The one entry of a JAAS configuration; None when it is not one."""
    entry = _ENTRY.fullmatch(jaas)
    if entry is None:
        return None
    options = {name: _unquoted(value) for name, value in _OPTION.findall(entry["options"])}
    return LoginModule(entry["name"], options, entry["rest"])


def user_of(properties: Mapping[str, str]) -> str | None:
    """The name by which a SASL login goes, if the properties of a client have it."""
    module = login_module(properties.get("sasl.jaas.config", ""))
    return None if module is None else module.options.get("username")


def quoted_for_jaas(text: str) -> str:
    """`text` as it stands between the double quotes of a JAAS value."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _unquoted(value: str) -> str:
    if value[:1] not in ('"', "'"):
        return value
    return re.sub(
        r"\\(.)", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), value[1:-1]
    )
