"""The benchmark of skew compares runs of as many actions only, and its table and plot have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.join.run_skew import Case, MakeSkew, groups
from benchmarks.join.skew import ITEM_SIZES, SHAPES, SIZES, Measured, cases, draw, table
from schemas.events import ActionEvent, RequestBody, RequestEvent
from udfs.core.decode_batches import Keyed


def made(case: Case) -> list[Keyed]:
    host = MakeSkew(case)
    host.open()
    numbers = [(n,) for n in range(groups(case)[0])]
    reply = host.run(msgspec.msgpack.encode(numbers))
    return msgspec.msgpack.decode(reply, type=tuple[bool, list[Keyed], Any])[1]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_run_of_a_shape_has_as_many_actions_or_impressions(shape: str) -> None:
    for case in cases(20_000):
        if (case.shape, case.backend) != (shape, "hashmap"):
            continue
        keyed = made(case)
        events = [k.event for k in keyed]
        actions = [e for e in events if isinstance(e, ActionEvent)]
        requests = [e for e in events if isinstance(e, RequestEvent)]
        if shape == "items":
            bodies = [msgspec.msgpack.decode(e.body, type=RequestBody) for e in requests]
            assert sum(len(body.items) for body in bodies) == 20_000
            assert {len(body.items) for body in bodies} == {case.size}
            assert len(actions) == len(requests)
        else:
            assert len(actions) == 20_000
            assert len({k.key for k in keyed}) == 20_000 // case.size


@pytest.mark.parametrize("total", [150_000, 1_000, 0])
def test_a_total_that_would_differ_between_sizes_is_refused(total: int) -> None:
    with pytest.raises(ValueError, match="cannot be made of keys"):
        cases(total)


def test_all_runs_are_in_the_table_and_the_plot(tmp_path: Path) -> None:
    results = [
        Measured(case.shape, case.backend, case.size, case.size + turn)
        for turn in (0.2, 0.8, 8)
        for case in cases(200_000)
    ]
    text = table(results)
    assert text.count("\n| ") == 2 * len(SHAPES) + 3
    for size in (*SIZES, *ITEM_SIZES):
        assert f"{size + 0.8:.1f} ({size + 0.2:.1f} to {size + 8:.1f})" in text
    draw(results, tmp_path / "skew.svg")
    drawn = (tmp_path / "skew.svg").read_bytes()
    assert drawn.startswith(b"<?xml")
    draw(results, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == drawn
