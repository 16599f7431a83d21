"""Configuration files: one TOML file, with `a.b=value` over it, as a checked tree of structs.

The habits that the jobs and the trainer share. What the keys are is in `jobs.pipeline.config` and
`trainer.config`; here is how they are read, and how the one line comes about that says what is
wrong: the file (or the override), the key, and what was expected.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
import tomli

_UNITS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d+)\s*(ms|s|min|h|d)")


class ConfigError(Exception):
    """One line for a person: what is wrong, where, and what was expected."""


#: Makes the error of a key and of what is wrong with it.
Wrong = Callable[[str, str], ConfigError]


class Duration(int):
    """Milliseconds; written "250ms", "10s", "5min", "2h" or "1d" in a configuration."""

    @classmethod
    def parse(cls, text: object) -> Duration:
        match = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f'expected a duration like "250ms", "10s", "5min", "2h"; got {text!r}')
        return cls(int(match[1]) * _UNITS[match[2]])


class Section(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A table of the file. Keys that it does not have are errors."""


_File = TypeVar("_File", bound=Section)


def add_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """`--config FILE` and `--set a.b=value`; `what` says in `--help` what the file is."""
    parser.add_argument("--config", type=Path, required=True, help=f"{what}, a TOML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=value", help="over the file; repeatable"
    )


def read(path: Path, into: type[_File], overrides: Sequence[str] = ()) -> _File:
    """The file with the overrides over it, as far as types can check it.

    Raises ConfigError.
    """
    try:
        document = tomli.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    layout = _layout(into)
    origins: dict[str, str] = {}
    for override in overrides:
        _override(document, override, layout, origins)
    try:
        return msgspec.convert(document, into, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(_readable(str(error), path, layout, origins)) from None


def wrong_in(path: Path) -> Wrong:
    """For what the types of a file's keys cannot say."""
    return lambda key, text: ConfigError(f"{path}: {key}: {text}")


def beside(path: Path, text: str) -> str:
    """The absolute place of `text`, which is relative to the file `path`; a URI stays as it is."""
    # a scheme (s3://, file://) is for Flink's file systems; what else is local
    return text if "://" in text else str((path.parent / Path(text).expanduser()).resolve())


# -- what keys there are ---------------------------------------------------------------------------


@dataclass
class _Layout:
    """`sections`: by place, the structs that may be there. `free`: tables of scalars by any name,

    as Flink's options and Kafka's properties, which have dots in their own names.
    """

    sections: dict[str, list[type[msgspec.Struct]]] = field(default_factory=dict)
    free: set[str] = field(default_factory=set)


@cache
def _layout(root: type[msgspec.Struct]) -> _Layout:
    layout = _Layout()

    def visit(place: str, annotation: Any) -> None:
        for inner, struct in _structs(place, annotation, layout.free):
            layout.sections.setdefault(inner, []).append(struct)
            for key in msgspec.structs.fields(struct):
                visit(f"{inner}.{key.encode_name}".lstrip("."), key.type)

    visit("", root)
    return layout


def _structs(
    place: str, annotation: Any, free: set[str]
) -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """The structs in an annotation (an optional one, a table by name, an array), and where."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield place, annotation
    elif get_origin(annotation) is dict:
        found = list(_structs(f"{place}.<name>", get_args(annotation)[1], free))
        if not found:
            free.add(place)
        yield from found
    else:
        for inner in get_args(annotation):
            yield from _structs(place, inner, free)


# -- overrides -------------------------------------------------------------------------------------


def _override(
    document: dict[str, Any], override: str, layout: _Layout, origins: dict[str, str]
) -> None:
    """The value is read as TOML if it is that, else as a string: `a.b=10s` needs no quotes."""
    key, equals, text = override.partition("=")
    parts = _parts(key.strip(), layout)
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: expected a.b=value")
    try:
        value = tomli.loads(f"value = {text}")["value"]
    except tomli.TOMLDecodeError:
        value = text
    if ".".join(parts[:-1]) in layout.free and not isinstance(value, str):
        # options of Flink and Kafka are texts, so `flink.a.b=true` needs no quotes either
        value = text
    table = document
    for part in parts[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {part!r} is a value, not a table")
        table = inner
    table[parts[-1]] = value
    origins[key.strip()] = f"--set {override}"


def _parts(key: str, layout: _Layout) -> list[str]:
    for place in layout.free:
        if key.startswith(f"{place}."):
            return [*place.split("."), key.removeprefix(f"{place}.")]
    return key.split(".")


# -- values and errors -----------------------------------------------------------------------------


def _decode(expected: type, value: object) -> object:
    if expected is Duration:
        return Duration.parse(value)
    raise NotImplementedError(expected)


def _readable(message: str, path: Path, layout: _Layout, origins: Mapping[str, str]) -> str:
    """`Expected X - at `$.a.b`` becomes `FILE: a.b: expected X`."""
    text, _, place = message.partition(" - at `$")
    key = place.rstrip("`").lstrip(".").replace("[...]", ".<name>")
    unknown = re.search(r"unknown field `(.+)`", text)
    if unknown:
        name = f"{key}.{unknown[1]}".lstrip(".")
        instead = _instead(key, unknown[1], layout)
        return f"{origins.get(name, path)}: {name}: there is no such key{instead}"
    missing = re.search(r"missing required field `(.+)`", text)
    if missing:
        return f"{path}: {f'{key}.{missing[1]}'.lstrip('.')}: this key is required"
    choices = _choices(key, layout) if text.startswith("Invalid") else ()
    expected = f"; expected one of {', '.join(choices)}" if choices else ""
    return f"{origins.get(key, path)}: {key}: {text[:1].lower()}{text[1:]}{expected}"


def _at(section: str, layout: _Layout) -> Sequence[type[msgspec.Struct]]:
    """The structs of a section; of an array's table (`a.b[0]`) those of the array."""
    return layout.sections.get(re.sub(r"\[\d+\]", "", section), ())


def _choices(key: str, layout: _Layout) -> Sequence[str]:
    """The values that the key may have, for one with a choice of words."""
    section, _, name = key.rpartition(".")
    structs = _at(section, layout)
    tags = [str(s.__struct_config__.tag) for s in structs if s.__struct_config__.tag_field == name]
    words = [
        word
        for struct in structs
        for key_of in msgspec.structs.fields(struct)
        if key_of.encode_name == re.sub(r"\[\d+\]", "", name)
        for word in _words(key_of.type)
    ]
    return list(dict.fromkeys(tags + words))


def _words(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [word for word in get_args(annotation) if isinstance(word, str)]
    return [word for inner in get_args(annotation) for word in _words(inner)]


def _instead(section: str, unknown: str, layout: _Layout) -> str:
    # of structs that are told apart by a tag, the one with such a key is not the one that is meant
    meant = [s for s in _at(section, layout) if unknown not in s.__struct_encode_fields__]
    names = dict.fromkeys(name for struct in meant for name in struct.__struct_encode_fields__)
    return f" (there are: {', '.join(names)})" if names else f" ({unknown})"
