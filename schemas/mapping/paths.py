"""Where a value is in a record: `ctx.user.id`, `seatbid[0].bid`, `.price`, `prices[]`.

A path begins at the record, or with a dot at the item (one element of the record's items). `[2]`
is an element of an array, `[-1]` the last. `[]` is the element that stands where the item stands
among the items, for arrays that run beside them. A name with a dot, a bracket or a quote in it is
written as a JSON string: `"a.b".id`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

#: A name; an index; or None, the index of the item.
Step = str | int | None

_NAME = re.compile(r'[^.\[\]"]+')
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_INDEX = re.compile(r"\[([^\[\]]*)\]")
_NUMBER = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True)
class Path:
    """A path that was read. `of_item`: it begins at the item, not at the record."""

    text: str
    of_item: bool
    steps: tuple[Step, ...]

    @property
    def needs_item(self) -> bool:
        """Whether it means something only where there are items."""
        return self.of_item or None in self.steps

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Path:
    """The path that a text is. Raises ValueError, which says what is wrong and what is right."""
    of_item = text.startswith(".")
    at = int(of_item)
    steps: list[Step] = []
    if not text:
        raise ValueError("the path is empty; write the name of a field, such as ctx.user.id")
    while at < len(text) or (not steps and not of_item):
        step, at = _step(text, at, first=not steps)
        steps.append(step)
    if steps.count(None) > 1:
        raise ValueError(f"{text!r} has [] twice; there is one list of items, and one [] for it")
    if of_item and None in steps:
        raise ValueError(
            f"{text!r}: a path that begins with a dot is within the item already, so [] has no use"
            " in it; write the index, or begin at the record"
        )
    return Path(text, of_item, tuple(steps))


def _step(text: str, at: int, *, first: bool) -> tuple[Step, int]:
    """The step that begins at a place, and where the next one begins."""
    rest = text[at:]
    if rest.startswith("["):
        index = _INDEX.match(rest)
        if index is None:
            raise ValueError(f"{text!r} has a [ without a ]")
        if index[1] and not _NUMBER.fullmatch(index[1]):
            raise ValueError(
                f"{text!r}: [{index[1]}] is no index; write a number, or [] for the place of the"
                " item. A name is written with a dot"
            )
        return (int(index[1]) if index[1] else None), at + len(index[0])
    if not first:
        if not rest.startswith("."):
            raise ValueError(f"{text!r}: expected a dot or a [ before {rest!r}")
        at, rest = at + 1, rest[1:]
    quoted = _QUOTED.match(rest)
    if quoted is not None:
        try:
            return str(json.loads(quoted[0])), at + len(quoted[0])
        except ValueError:
            raise ValueError(f"{text!r}: {quoted[0]} is no JSON string") from None
    name = _NAME.match(rest)
    if name is None:
        what = "has a quote that does not end" if rest.startswith('"') else "lacks a name"
        raise ValueError(f"{text!r} {what}; write names with a dot between them, such as a.b[0].c")
    return name[0], at + len(name[0])


def quoted(name: str) -> str:
    """A name as a path has it."""
    return name if _NAME.fullmatch(name) else json.dumps(name, ensure_ascii=False)
