"""Quoting for SQL: what is quoted is one token, and reads back as it was."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from configuration.declaration import name_fault
from schemas import samples, sql

#: The tokens of Flink's parser that matter here (Calcite's Parser.jj: QUOTED_STRING and
#: BACK_QUOTED_IDENTIFIER); everything else is one character each.
_TOKEN = re.compile(
    r"(?P<string>'(?:[^']|'')*')|(?P<name>`(?:[^`\n\r]|``)+`)|(?P<other>.)", re.DOTALL
)
HARD = "'\"`\\\n\r\t%$=:;[]{}*?/-é価😀\x00\u2028 "
texts = st.text(st.one_of(st.sampled_from(HARD), st.characters(codec="utf-8")), max_size=30)


def tokens(text: str) -> list[tuple[str, str]]:
    """Kind and value; spaces between are left out."""
    found = []
    for match in _TOKEN.finditer(text):
        kind, value = str(match.lastgroup), match[0]
        if kind == "string":
            value = value[1:-1].replace("''", "'")
        elif kind == "name":
            value = value[1:-1].replace("``", "`")
        if value != " " or kind != "other":
            found.append((kind, value))
    return found


@given(texts)
@example("it's")
@example("'; DROP TABLE x --")
def test_a_literal_is_one_token_that_reads_back(text: str) -> None:
    assert tokens(sql.literal(text)) == [("string", text)]


@given(texts.filter(bool))
def test_an_identifier_is_one_token_that_reads_back_or_is_refused(text: str) -> None:
    try:
        quoted = sql.identifier(text)
    except ValueError:
        assert "\n" in text or "\r" in text or len(text) > 100
    else:
        assert tokens(quoted) == [("name", text)]


@given(st.dictionaries(texts, texts, max_size=4))
def test_options_are_pairs_of_literals(values: dict[str, str]) -> None:
    found = tokens(sql.options(values))
    assert [value for kind, value in found if kind == "string"] == [
        text for pair in values.items() for text in pair
    ]
    assert [value for kind, value in found if kind == "other"] == list(
        "=," * (len(values) - 1) + "=" if values else ""
    )


@given(st.lists(texts, max_size=5))
def test_every_name_that_the_configuration_takes_can_be_a_column(names: list[str]) -> None:
    taken = [name for name in dict.fromkeys(names) if name_fault(name) is None]
    columns = samples.sql_columns(pa.schema([(name, pa.int64()) for name in taken]))
    assert [value for kind, value in tokens(columns) if kind == "name"] == taken


@pytest.mark.parametrize("name", ["", "a\nb", "a\rb", "x" * 257, "😀" * 129])
def test_what_sql_cannot_express_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="SQL"):
        sql.identifier(name)
