"""Quoting for Flink SQL. Every name and every value that goes into a statement passes through here.

The rules are those of Flink's parser (Calcite with `Quoting.BACK_TICK`): a name stands in
backticks, a string in single quotes, and the quote itself is doubled. A backslash means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Flink's parser refuses longer names (`SqlParser.Config.identifierMaxLength`).
IDENTIFIER_MAX_LENGTH = 256


def identifier(name: str) -> str:
    """`name` as a quoted identifier.

    Raises ValueError for a name that SQL cannot express: an empty one, one with a line break, and
    one of more than `IDENTIFIER_MAX_LENGTH` UTF-16 units.
    """
    if not name or "\n" in name or "\r" in name:
        raise ValueError(f"not a name that SQL can express: {name!r}")
    if len(name.encode("utf-16-le")) // 2 > IDENTIFIER_MAX_LENGTH:
        raise ValueError(f"longer than the {IDENTIFIER_MAX_LENGTH} characters of SQL: {name!r}")
    return "`" + name.replace("`", "``") + "`"


def literal(text: str) -> str:
    """`text` as a quoted string; any text is legal."""
    return "'" + text.replace("'", "''") + "'"


def options(values: Mapping[str, str]) -> str:
    """The inside of `WITH (…)`."""
    return ", ".join(f"{literal(key)} = {literal(value)}" for key, value in values.items())
