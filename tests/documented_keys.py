"""Configuration keys as documentation lists them, beside those that the structs really have.

A table of keys has the head `| key | default | meaning |`. A cell may name several keys, each in
backticks. A key that begins with a dot belongs to the section of the key before it. The defaults
are in the same order. A row `[[a.b]]` describes an array of tables; its keys are in its last cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import tomli

from configuration.reading import Duration

DOCS = Path(__file__).resolve().parents[1] / "docs"
_HEAD = "| key | default | meaning |"
_UNITS = {"MiB": 1 << 20}


@dataclass(frozen=True)
class Documented:
    """One key; `default` as the table says it, None where the row has no default of its own."""

    key: str
    default: str | None


def tables(page: str) -> list[tuple[str, list[Documented]]]:
    """For each table of keys on a page of docs/: the text line before it, and its keys."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    found = []
    for n, line in enumerate(lines):
        if line.strip() == _HEAD:
            before = next(text for text in reversed(lines[:n]) if text.strip())
            keys: list[Documented] = []
            for row in lines[n + 2 :]:
                if not row.startswith("|"):
                    break
                keys += _keys(row)
            found.append((before, keys))
    return found


def _keys(row: str) -> Iterator[Documented]:
    key_cell, default_cell, text = (
        cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip())[1:-1]
    )
    array = re.fullmatch(r"`\[\[(.+)\]\]`", key_cell)
    if array:
        for name in re.findall(r"`([a-z_]+)`", text):
            yield Documented(f"{array[1]}[].{name}", None)
        return
    names = re.findall(r"`([^`]+)`", key_cell)
    defaults = re.split(r", (?![^\[{]*[\]}])", default_cell)
    section = ""
    for n, name in enumerate(names):
        key = section + name if name.startswith(".") else name
        section = key.rpartition(".")[0]
        yield Documented(key, defaults[n] if len(defaults) == len(names) else default_cell)


@dataclass(frozen=True)
class Real:
    """One key of a struct. `optional`: it is in a section that may be left out as a whole."""

    key: str
    field: Any
    optional: bool


def real(struct: type[msgspec.Struct], place: str = "", *, optional: bool = False) -> list[Real]:
    """All keys of a struct, at any depth. Unions of structs are left to the caller as one key."""
    found: list[Real] = []
    for field in msgspec.structs.fields(struct):
        if field.encode_name.endswith(".*"):
            continue  # the same keys once more, below names of the user's
        key = f"{place}.{field.encode_name}".lstrip(".")
        inner, below, may_miss = _section(field.type, key)
        if inner is None:
            found.append(Real(below, field, optional))
        else:
            found += real(inner, below, optional=optional or may_miss or not field.required)
    return found


def _section(annotation: Any, key: str) -> tuple[type[msgspec.Struct] | None, str, bool]:
    """The struct of a section, where its keys are, and whether it may be left out."""
    structs = [a for a in get_args(annotation) or (annotation,) if _is_struct(a)]
    if get_origin(annotation) is dict:
        inner, _, _ = _section(get_args(annotation)[1], key)
        return inner, f"{key}.<name>" if inner is not None else f"{key}.*", False
    if get_origin(annotation) is list and structs:
        return structs[0], f"{key}[]", True
    if len(structs) == 1 and structs[0].__struct_config__.tag is None:
        return structs[0], key, type(None) in get_args(annotation)
    return None, key, False


def _is_struct(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def differences(documented: list[Documented], keys: list[Real]) -> list[str]:
    """A line for each key that is documented and not real, the reverse, or has another default."""
    said = {d.key.replace("<kind>", "<name>"): d.default for d in documented}
    there = {r.key: r for r in keys}
    found = [f"{key} is documented, and there is no such key" for key in said if key not in there]
    found += [f"{key} is not documented" for key in there if key not in said]
    for key, default in said.items():
        if key in there and default is not None:
            why = _wrong_default(default, there[key])
            if why:
                found.append(f"{key}: the documented default is {default!r}, {why}")
    return found


def _wrong_default(said: str, real: Real) -> str | None:
    field = real.field
    if field.required:
        required = said == "required" or (real.optional and "`" not in said)
        return None if required else "and the key is required"
    value = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    words = said.strip("`")
    if value is None or value == {} or value == []:
        return "and there is none" if re.fullmatch(r"`[^`]+`", said) else None
    if isinstance(value, Duration):
        fits = bool(re.match(r"\d", words)) and Duration.parse(words) == value
    elif isinstance(value, bool):
        fits = words == str(value).lower()
    elif isinstance(value, int | float):
        number, _, unit = words.partition(" ")
        fits = bool(re.match(r"\d", words)) and float(number) * _UNITS.get(unit, 1) == value
    elif isinstance(value, str):
        fits = words == value
    else:
        fits = msgspec.convert(tomli.loads(f"v = {words}")["v"], field.type) == value
    return None if fits else f"and it is {value!r}"
