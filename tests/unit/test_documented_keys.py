"""docs/configuration.md has every key of a pipeline with its default, and no other."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from jobs.pipeline.config import ArchiveSource, FilesSource, KafkaSource, Pipeline
from tests.documented_keys import Documented, differences, real, tables


def documented(kind: str) -> list[Documented]:
    (found,) = (
        keys
        for before, keys in tables("configuration.md")
        if (f'type = "{kind}"' in before if kind else 'type = "' not in before)
    )
    return found


@pytest.mark.parametrize(
    ("kind", "struct"),
    [
        ("", Pipeline),
        ("files", FilesSource),
        ("kafka", KafkaSource),
        ("archive", ArchiveSource),
    ],
)
def test_the_page_has_all_keys_with_their_defaults(kind: str, struct: type[msgspec.Struct]) -> None:
    # the sources have tables of their own
    keys = [key for key in real(struct) if not key.key.startswith("sources.")]
    assert len(keys) >= 4
    assert differences(documented(kind), keys) == []


def test_what_differs_is_found() -> None:
    keys = [key for key in real(Pipeline) if not key.key.startswith("sources.")]
    page = documented("")
    assert differences(page[1:], keys) == ["pipeline.name is not documented"]
    more = [*page, Documented("join.colour", "`red`")]
    assert differences(more, keys) == ["join.colour is documented, and there is no such key"]
    for key, default in (
        ("join.clock_skew", "`1s`"),
        ("join.key", "`user_id`"),
        ("output.path", "`out`"),
        ("sampling.rate", "0.5"),
        ("output.late_features", "`true`"),
        ("features.<name>.scope", "`context`"),
        ("runtime.parallelism", "`4`"),
    ):
        changed = [replace(d, default=default) if d.key == key else d for d in page]
        (said,) = differences(changed, keys)
        assert said.startswith(f"{key}: the documented default is")
