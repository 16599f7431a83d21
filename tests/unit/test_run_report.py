"""The counts at the end of a run, and what in them is called wrong."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs.pipeline.run_report import Counts, Judgement, judge, table

GOOD = {
    "features_read": 1_000,
    "actions_read": 2_000,
    "accepted": 995,
    "settled": 995,
    "impressions": 9_950,
    "joined": 1_900,
    "late": 20,
    "rows/final": 9_950,
    "rows/positive": 0,
    "rejected/features/duplicate_request": 5,
    "rejected/actions/orphan_action": 80,
    "actions_ignored": 0,
}


def judged(changes: dict[str, int] | None = None, *, restored: bool = False) -> Judgement:
    counts = Counts.of(GOOD | (changes or {}), restored=restored)
    return judge(counts, max_late_requests=0.1, max_rejected=0.9)


def test_a_good_run_is_not_complained_of() -> None:
    assert judged() == Judgement()


@pytest.mark.parametrize(
    ("changes", "failed", "words"),
    [
        # a required feature is misspelt: nothing is left
        (
            {"rejected/features/missing_field": 1_000, "accepted": 0, "joined": 0},
            True,
            ("every one of the 1,000 requests", "missing_field 1,000", "rejected/"),
        ),
        # all actions name requests that are not there
        (
            {"rejected/actions/orphan_action": 2_000, "joined": 0, "late": 0},
            True,
            ("every one of the 2,000 actions", "orphan_action 2,000"),
        ),
        # a folder for each host
        (
            {"rejected/features/late_request": 480},
            True,
            ("480 of 1,000 (48.0%) requests came too late", "out_of_orderness"),
        ),
        ({"rejected/features/late_request": 100}, False, ("100 of 1,000 (10.0%)",)),
        ({"rejected/features/wrong_type": 901}, True, ("901 of 1,000 (90.1%)", "message")),
        ({"rejected/features/wrong_type": 11}, False, ("11 of 1,000 (1.1%)", "wrong_type 11")),
        ({"rejected/actions/future_clock": 1_850}, True, ("1,850 of 2,000 (92.5%) actions",)),
        ({"features_read": 0}, False, ("no requests were read",)),
        ({"joined": 0, "late": 0}, False, ("no action joined any request",)),
    ],
)
def test_what_is_wrong_is_said_with_numbers_and_advice(
    changes: dict[str, int], failed: bool, words: tuple[str, ...]
) -> None:
    found = judged(changes)
    lines = found.failures if failed else found.warnings
    assert bool(found.failures) == failed
    (line,) = [line for line in lines if words[0] in line]
    assert "\n" not in line
    for word in words:
        assert word in line


def test_relations_between_records_are_no_unusable_records() -> None:
    found = judged(
        {
            "rejected/actions/orphan_action": 1_500,
            "rejected/actions/duplicate_action": 300,
            "rejected/features/duplicate_request": 400,
        }
    )
    assert found == Judgement()


def test_a_restored_run_is_not_judged() -> None:
    assert judged({"rejected/features/late_request": 5_000}, restored=True) == Judgement()


_COUNTS = st.dictionaries(
    st.sampled_from([*GOOD, "rejected/features/late_request", "rejected/actions/new", "x/y/z"]),
    st.integers(0, 10**9),
    min_size=1,
)


@given(accumulators=_COUNTS, restored=st.booleans())
def test_any_counts_make_a_table_that_lines_up_and_a_judgement(
    accumulators: dict[str, int], restored: bool
) -> None:
    counts = Counts.of(accumulators, restored=restored)
    found = judge(counts, max_late_requests=0.1, max_rejected=0.9)
    assert all("\n" not in line for line in [*found.failures, *found.warnings])
    out: Any = io.StringIO()
    Console(file=out, width=80).print(table(counts))
    lines = out.getvalue().splitlines()
    assert len({len(line.rstrip()) for line in lines}) == 1
    assert all(line.rstrip()[-1].isdigit() for line in lines)
    shown = {line.split()[-2]: line.split()[-1] for line in lines if len(line.split()) > 1}
    for reason in ("new", "late_request"):
        n = sum(c for name, c in accumulators.items() if name.endswith(f"/{reason}"))
        assert (reason in shown) == (n > 0)
