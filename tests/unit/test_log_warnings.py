"""Warnings of ours in Flink's log, and nothing else of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from jobs.pipeline.log_warnings import LogWarnings

OURS = "2026-11-25 21:38:59,002 WARN  sample_stitch.late_requests    [] - 51 of them\n"
JSON = (
    '{"log.level": "INFO", "message": "no", "log.logger": "sample_stitch.late_requests"}\n'
    '{"log.level": "WARN", "message": "no", "log.logger": "org.apache"}\n'
    '{"log.level": "WARN", "message": "51 of them", "log.logger": "sample_stitch.late_requests"}\n'
)
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


@given(st.lists(st.tuples(st.integers(0, 900), st.booleans(), st.booleans()), max_size=8))
def test_however_it_is_cut_and_rolled_each_is_said_once(
    cuts: list[tuple[int, bool, bool]],
) -> None:
    """`full`: the log rolls there, at the end of a line. `seen`: it was looked at before."""
    text = (OTHERS + OURS + JSON) * 2
    with tempfile.TemporaryDirectory() as folder:
        warnings = LogWarnings(Path(folder))
        log = Path(folder) / "flink-a.log"
        said: list[str] = []
        begin = 0
        for cut, full, seen in [*sorted(cuts), (len(text), False, True)]:
            end = max(begin, min(cut, len(text)))
            if full:
                end = text.find("\n", end) + 1 or len(text)
            with log.open("a") as more:
                more.write(text[begin:end])
            begin = end
            if seen:
                said += warnings.new()
            if full:
                roll(log)
    assert said == ["late requests: 51 of them"] * 4


def roll(log: Path) -> None:
    """As Log4j does."""
    for number in range(8, 0, -1):
        old = log.with_name(f"{log.name}.{number}")
        if old.exists():
            old.rename(log.with_name(f"{log.name}.{number + 1}"))
    log.rename(log.with_name(f"{log.name}.1"))
