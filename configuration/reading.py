"""Configuration files: one TOML file, with `a.b=value` over it, as a checked tree of structs.

The jobs and the trainer share this. Which keys there are is in `jobs.pipeline.config` and
`trainer.config`. Here is how they are read, and how an error becomes one line that says what is
wrong: the file (or the override), the key, and what was expected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
import tomli

_UNITS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_DURATION = re.compile(r"(\d+)\s*(ms|s|min|h|d)")


class ConfigError(Exception):
    """What is wrong in a configuration, where, and what was expected, in one line."""


#: Makes the error of a key (see `key_of`) and of what is wrong with it.
Wrong = Callable[[str, str], ConfigError]


#: 100 years, in ms. Sums of a few durations and an event's time (`schemas.events.LATEST_TIME`) stay
#: far below Java's longest long, and one duration fits into it in nanoseconds, too.
LONGEST_DURATION = 36_500 * _UNITS["d"]


class Duration(int):
    """Milliseconds; written "250ms", "10s", "5min", "2h" or "1d" in a configuration. At most
    `LONGEST_DURATION`.
    """

    @classmethod
    def parse(cls, text: object) -> Duration:
        """From text such as "10s". Raises ValueError for anything else."""
        match = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f'expected a duration like "250ms", "10s", "5min", "2h"; got {text!r}')
        # Python refuses to read thousands of digits, and no duration needs more than these.
        ms = int(match[1]) * _UNITS[match[2]] if len(match[1]) < 20 else LONGEST_DURATION + 1
        if ms > LONGEST_DURATION:
            raise ValueError(f"longer than 36500d (100 years): {text!r}")
        return cls(ms)


class Section(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A table of the file. Keys that it does not have are errors.

    A field that is called `x.*` has the tables that have names of their own below `x`: `[x.one]`,
    `[x.two]`. `shaped` puts them there.
    """

    @classmethod
    def shaped(cls, document: dict[str, Any], wrong: Wrong) -> dict[str, Any]:
        """The document of a file as the types have it. Raises the ConfigError of `wrong`."""
        return document


_File = TypeVar("_File", bound=Section)


def read(path: Path, into: type[_File], overrides: Sequence[str] = ()) -> _File:
    """The file with the overrides over it, as far as types can check it.

    Raises ConfigError.
    """
    document = _document(path)
    layout = _layout(into)
    for override in overrides:
        _override(document, override, layout)
    document = into.shaped(document, wrong_in(path, overrides))
    try:
        return msgspec.convert(document, into, dec_hook=_decode)
    except msgspec.ValidationError as error:
        origin = _Origin(path, overrides, layout)
        raise ConfigError(_readable(error, document, into, layout, origin)) from None


def convert(document: object, into: type[_File]) -> _File | None:
    """What `read` gives for a document that was written down before. None if it does not fit, since
    another release wrote it.
    """
    try:
        if isinstance(document, dict):
            document = into.shaped(document, lambda key, text: ConfigError(f"{key}: {text}"))
        return msgspec.convert(document, into, dec_hook=_decode)
    except (msgspec.ValidationError, ConfigError):
        return None


def wrong_in(path: Path, overrides: Sequence[str] = ()) -> Wrong:
    """For what the types of a file's keys cannot say. The error names the file or the override."""
    origin = _Origin(path, overrides, _Layout())
    return lambda key, text: ConfigError(f"{origin.of(key, whole=True)}: {key}: {text}")


def key_of(*names: str) -> str:
    """A key as TOML writes it, on one line: `features."a b".type`."""
    return ".".join(n if _BARE.fullmatch(n) else _quoted(n) for n in names)


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=not name.isprintable())


def _document(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises ConfigError."""
    try:
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    try:
        return tomli.loads(raw.decode())
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: not valid TOML: line {line} is not UTF-8") from None
    except tomli.TOMLDecodeError as error:
        text = str(error)
        if text.endswith("(at end of document)"):
            line = raw.rstrip().count(b"\n") + 1
            text = text.removesuffix("(at end of document)") + f"(at the end, line {line})"
        raise ConfigError(f"{path}: not valid TOML: {text}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid TOML: nested too deeply") from None
    except ValueError:  # Python reads no number of more than 4300 digits
        raise ConfigError(f"{path}: not valid TOML: a number has thousands of digits") from None


@dataclass
class _Origin:
    """Who said a key: the file or one of the overrides."""

    path: Path
    overrides: Sequence[str]
    layout: _Layout

    def of(self, key: str, *, whole: bool = False) -> str:
        """`whole`: what is wrong follows from several keys, so all overrides are named if none has
        this key.
        """
        keys = [(key_of(*_split(o, self.layout)[0]), o) for o in self.overrides]
        for said, override in reversed(keys):
            if said and (key == said or key.startswith((f"{said}.", f"{said}["))):
                return f"--set {override}"
        try:
            in_file = _lookup(_document(self.path), key)
        except ConfigError:  # the file was changed since it was read
            in_file = True
        if not in_file:
            for said, override in reversed(keys):
                if said.startswith(f"{key}."):
                    return f"--set {override}"
        if whole and keys:
            return f"{self.path} with " + " ".join(f"--set {o}" for o in self.overrides)
        return str(self.path)


def _lookup(document: dict[str, Any], key: str) -> bool:
    """Whether there is anything under a key."""
    table: Any = document
    for name in _parse_key(re.sub(r"\[\d+\]", "", key)) or key.split("."):
        if not isinstance(table, dict) or name not in table:
            return False
        table = table[name]
    return True


def _parse_key(text: str) -> list[str]:
    """The names of a dotted TOML key; empty if it is none."""
    names: list[str] = []
    try:
        table: Any = tomli.loads(f"{text} = 0")
    except ValueError:
        return []
    while isinstance(table, dict) and len(table) == 1:
        name, table = next(iter(table.items()))
        names.append(name)
    return names if table == 0 else []


# -- what keys there are ---------------------------------------------------------------------------


@dataclass
class _Layout:
    """Which keys a file may have.

    `sections`: by place, the structs that may be there. `free`: tables of scalars with any names,
    such as Flink's options and Kafka's properties, which have dots in their own names.
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
                visit(f"{inner}.{key.encode_name.removesuffix('.*')}".lstrip("."), key.type)

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


def _override(document: dict[str, Any], override: str, layout: _Layout) -> None:
    """The value is read as TOML if it is that, else as a string: `a.b=10s` needs no quotes."""
    parts, text = _split(override, layout)
    if text is None:
        raise ConfigError(f"--set {override}: expected a.b=value")
    try:
        value = tomli.loads(f"value = {text}")["value"]
    except (ValueError, KeyError, RecursionError):
        value = text
    within = ".".join(parts[:-1])
    if any(_below(place).fullmatch(f"{within}.") for place in layout.free) and not isinstance(
        value, str
    ):
        # options of Flink and Kafka are texts, so `flink.a.b=true` needs no quotes either
        value = text
    table = document
    for part in parts[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {part!r} is a value, not a table")
        table = inner
    table[parts[-1]] = value


def _below(place: str) -> re.Pattern[str]:
    """The beginning of a key below a place of `_Layout`."""
    return re.compile(re.escape(place).replace("<name>", r"[\w-]+") + r"\.")


def _split(override: str, layout: _Layout) -> tuple[list[str], str | None]:
    """The names of the key, and the text of the value (None: there is none).

    A name with a dot or `=` in it is quoted, as in TOML: `features."a.b".type=int64`.
    """
    key, equals, text = override.partition("=")
    for place in layout.free:
        found = _below(place).match(key.strip())
        if found is not None and found[0] != key.strip():
            name = key.strip()[found.end() :]
            names = _parse_key(name) if '"' in name else [name]
            return [*found[0].rstrip(".").split("."), *names], text
    for end in (i for i, c in enumerate(override) if c == "="):
        names = _parse_key(override[:end])
        if names:
            return names, override[end + 1 :]
    names = key.strip().split(".")
    return names, text if equals and all(names) else None


# -- values and errors -----------------------------------------------------------------------------


def _decode(expected: type, value: object) -> object:
    if expected is Duration:
        return Duration.parse(value)
    raise NotImplementedError(expected)


def _readable(
    error: msgspec.ValidationError,
    document: dict[str, Any],
    into: type[Section],
    layout: _Layout,
    origin: _Origin,
) -> str:
    """`Expected X - at `$.a.b`` becomes `FILE: a.b: expected X`."""
    text, _, place = str(error).rpartition(" - at `$")
    if not text:
        text, place = str(error), ""
    place = place.rstrip("`").lstrip(".")
    section = place.replace(".*", "").replace("[...]", ".<name>")
    key = _with_name(place, str(error), document, into).replace(".*", "")
    unknown = re.search(r"unknown field `(.+)`", text, re.DOTALL)
    if unknown:
        name = f"{key}.{key_of(unknown[1])}".lstrip(".")
        instead = _instead(section, unknown[1], layout)
        return f"{origin.of(name)}: {name}: there is no such key{instead}"
    missing = re.search(r"missing required field `(.+)`", text)
    if missing:
        name = f"{key}.{missing[1]}".lstrip(".")
        return f"{origin.of(key) if key else origin.path}: {name}: this key is required"
    choices = _choices(section, layout) if text.startswith("Invalid") else ()
    expected = f"; expected one of {', '.join(choices)}" if choices else ""
    return f"{origin.of(key)}: {key}: {text[:1].lower()}{text[1:]}{expected}"


def _with_name(place: str, message: str, document: dict[str, Any], into: type[Section]) -> str:
    """`actions[...].window` with the name of the entry that is wrong: msgspec does not tell it."""
    before, named, after = place.partition("[...]")
    if not named:
        return place
    names = re.split(r"\.(?!\*)", before)
    table: Any = document
    for name in names:
        table = table[name]
    for entry, value in table.items():
        alone: Any = {entry: value}
        for depth in range(len(names), 0, -1):
            around: Any = document
            for name in names[: depth - 1]:
                around = around[name]
            alone = around | {names[depth - 1]: alone}
        try:
            msgspec.convert(alone, into, dec_hook=_decode)
        except msgspec.ValidationError as error:
            if str(error) == message:
                return f"{before}.{key_of(entry)}{after}"
    return f"{before}.<name>{after}"


def _at(section: str, layout: _Layout) -> Sequence[type[msgspec.Struct]]:
    """The structs of a section; for a table of an array (`a.b[0]`) those of the array."""
    return layout.sections.get(re.sub(r"\[\d+\]", "", section), ())


def _choices(key: str, layout: _Layout) -> Sequence[str]:
    """The values that the key may have, for one with a choice of words."""
    section, _, name = key.rpartition(".")
    structs = _at(section, layout)
    tags = [str(s.__struct_config__.tag) for s in structs if s.__struct_config__.tag_field == name]
    words = [
        word
        for struct in structs
        for field_of in msgspec.structs.fields(struct)
        if field_of.encode_name == re.sub(r"\[\d+\]", "", name)
        for word in _words(field_of.type)
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
