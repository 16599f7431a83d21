"""Warnings of ours in Flink's log, and nothing else of it."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from jobs.pipeline.log_warnings import LogWarnings

OURS = "2026-11-25 21:38:59,002 WARN  sample_stitch.late_requests    [] - 51 of them\n"
OTHERS = (
    "2026-11-25 21:38:59,002 WARN  org.apache.flink.runtime.A       [] - something\n"
    "2026-11-25 21:38:59,002 INFO  sample_stitch.label_silence      [] - actions flow again\n"
    "\tat sample_stitch.late_requests WARN\n"
)


def test_it_begins_at_the_end_of_a_log_that_is_there(tmp_path: Path) -> None:
    log = tmp_path / "flink-me-python-host.log"
    log.write_text(OURS)
    warnings = LogWarnings(tmp_path)
    assert list(warnings.new()) == []
    with log.open("a") as more:
        more.write(OTHERS + OURS)
    (tmp_path / "join_samples.log").write_text(OURS)
    assert list(warnings.new()) == ["late requests: 51 of them"]
    assert list(warnings.new()) == []
    (tmp_path / "flink-me-python-other.log").write_text(OURS)
    assert list(warnings.new()) == ["late requests: 51 of them"]


@given(st.lists(st.integers(0, 400), max_size=8))
def test_however_it_is_cut_each_is_said_once(cuts: list[int]) -> None:
    text = (OTHERS + OURS) * 2
    with tempfile.TemporaryDirectory() as folder:
        warnings = LogWarnings(Path(folder))
        log = Path(folder) / "flink-a.log"
        said: list[str] = []
        places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
        for begin, end in itertools.pairwise(places):
            with log.open("a") as more:
                more.write(text[begin:end])
            said += warnings.new()
    assert said == ["late requests: 51 of them"] * 2
