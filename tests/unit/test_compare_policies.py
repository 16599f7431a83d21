"""The comparison of policies, over small tables written here."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from jobs.pipeline.config import ConfigError
from tools.compare_policies.command import (
    BEGIN,
    END,
    CompareError,
    Measured,
    Run,
    Timing,
    main,
    markdown,
    measure,
    plan,
    print_tables,
    put_between_markers,
)
from tools.generate.model import Traffic, pipeline

MINUTE = 60_000
PLAIN = Timing(skew=0, lateness=0, bound=0)
SAMPLES = pa.schema(
    [
        ("request_id", pa.string()),
        ("position", pa.int32()),
        ("revision", pa.int32()),
        ("kind", pa.string()),
        ("observed_ms", pa.int64()),
        ("delay_buy_ms", pa.int64()),
    ]
)


def row(request: str, revision: int, observed: int, delay: int | None, kind: str) -> Any:
    """A row of the first position; times in minutes."""
    delay_ms = None if delay is None else delay * MINUTE
    return (request, 0, revision, kind, observed * MINUTE, delay_ms)


def samples(*rows: Any) -> pa.Table:
    return pa.Table.from_arrays(
        [pa.array(c, type=f.type) for c, f in zip(zip(*rows, strict=True), SAMPLES, strict=True)],
        schema=SAMPLES,
    )


def truth(**minutes: int | None) -> pa.Table:
    """By request, when its first item is bought."""
    delays = [None if m is None else m * MINUTE for m in minutes.values()]
    return pa.table(
        {
            "request_id": list(minutes),
            "position": pa.array([0] * len(minutes), type=pa.int32()),
            "true_buy_ms": pa.array(delays, type=pa.int64()),
        }
    )


#: Window 30 min: bought in time, after the window, never; and one that came late to the join.
DAY = truth(in_time=20, too_late=90, never=None, straggler=25)


def test_waiting_is_wrong_only_of_what_comes_after_the_window() -> None:
    written = samples(
        row("in_time", 0, 30, 20, "final"),
        row("too_late", 0, 30, None, "final"),
        row("never", 0, 30, None, "final"),
        row("straggler", 0, 30, None, "final"),
    )
    found = measure(written, DAY, "buy", 30 * MINUTE, PLAIN)
    at_deadline = (30.0 * MINUTE, 30.0 * MINUTE)
    assert found == Measured(
        rows=4,
        impressions=4,
        acting=3,
        acting_in_window=2,
        false_negatives=2,
        false_negatives_in_window=1,
        wrong=2,
        wrong_in_window=1,
        first_age=at_deadline,
        right_age=at_deadline,
    )


def test_a_negative_at_once_is_false_until_the_next_row() -> None:
    written = samples(
        # the order of the rows in the files says nothing
        row("in_time", 1, 20, 20, "positive"),
        row("in_time", 0, 0, None, "provisional"),
        row("in_time", 2, 30, 20, "positive"),
        row("too_late", 0, 0, None, "provisional"),
    )
    found = measure(written, DAY, "buy", 30 * MINUTE, PLAIN)
    assert (found.rows, found.impressions, found.acting, found.acting_in_window) == (4, 2, 2, 1)
    assert (found.false_negatives, found.false_negatives_in_window) == (2, 1)
    assert (found.wrong, found.wrong_in_window) == (1, 0)
    assert found.first_age == (0.0, 0.0)
    assert found.right_age == (20.0 * MINUTE, 20.0 * MINUTE)


def test_ages_have_the_skew_and_the_bound_and_final_rows_the_lateness() -> None:
    timing = Timing(skew=1, lateness=100, bound=10)
    early = samples(row("in_time", 0, 20, 20, "positive"))
    assert measure(early, DAY, "buy", 30 * MINUTE, timing).right_age[0] == 20 * MINUTE + 11
    final = samples(row("in_time", 0, 30, 20, "final"))
    assert measure(final, DAY, "buy", 30 * MINUTE, timing).right_age[0] == 30 * MINUTE + 111


def test_median_and_95th_percentile() -> None:
    written = samples(*(row(f"r{n}", 0, n, n, "positive") for n in range(101)))
    day = truth(**{f"r{n}": n for n in range(101)})
    found = measure(written, day, "buy", 100 * MINUTE, PLAIN)
    assert found.right_age == (50.0 * MINUTE, 95.0 * MINUTE)


def test_what_only_one_side_knows_is_left_out() -> None:
    written = samples(row("in_time", 0, 30, 20, "final"), row("outside", 0, 30, None, "final"))
    found = measure(written, DAY, "buy", 30 * MINUTE, PLAIN)
    assert (found.rows, found.acting) == (1, 1)
    nothing = samples(row("never", 0, 30, None, "final"))
    assert measure(nothing, DAY, "buy", 30 * MINUTE, PLAIN).right_age == (None, None)
    with pytest.raises(CompareError, match="no row"):
        measure(samples(row("outside", 0, 30, None, "final")), DAY, "buy", 30 * MINUTE, PLAIN)


# -- runs and tables -------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.toml"
    path.write_text(pipeline(Traffic(1)))
    return path


def test_runs_are_planned_and_checked_before_the_first(config: Path, tmp_path: Path) -> None:
    runs = plan(config, tmp_path, ["wait", "defer"], ["30min", "3h"], "10min")
    assert [(r.policy, r.window) for r in runs] == [
        ("wait", "30min"),
        ("defer", "30min"),
        ("wait", "3h"),
        ("defer", "3h"),
    ]
    assert runs[1].pipeline.rules.first_emit_after == 10 * MINUTE
    assert runs[2].pipeline.rules.windows["purchase"] == 180 * MINUTE
    assert len({r.output for r in runs}) == 4
    with pytest.raises(ConfigError, match="shorter than the longest window"):
        plan(config, tmp_path, ["wait", "defer"], ["30min"], "2h")


def _results(config: Path) -> Mapping[str, list[tuple[Run, Measured]]]:
    runs = plan(config, Path("/nowhere"), ["wait", "fake_negative"], ["30min", "3h"], "10min")
    ages = (1_500.0, None)
    found = Measured(12_345, 10_000, 100, 0, 7, 3, 25, 0, ages, ages)
    return {kind: [(run, found) for run in runs] for kind in ("click", "purchase")}


def test_tables_line_up(config: Path) -> None:
    text = io.StringIO()
    print_tables(_results(config), Console(file=text, width=120))
    lines = [line.rstrip() for line in text.getvalue().splitlines() if line]
    assert len(lines) == 4 * 4  # two kinds, two windows: caption, heads, two policies
    title, head, wait, fake = lines[:4]
    assert title.startswith("click: purchase window 30min, click window 2.0 min")
    assert len(head) == len(wait) == len(fake)
    assert wait.split() == (
        ["wait", "12,345", "1.234", "1.5", "s", "-", "7", "3", "25.0%", "-", "1.5", "s", "-"]
    )


def test_the_document_is_changed_between_its_markers_only(config: Path, tmp_path: Path) -> None:
    document = tmp_path / "d.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_between_markers(document, markdown(_results(config), "about"))
    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\nabout\n")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "old" not in text
    columns = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(columns) == 1
    put_between_markers(document, "again")
    assert document.read_text() == f"before\n{BEGIN}\nagain\n{END}\nafter\n"


def test_what_cannot_be_is_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "d.md"
    document.write_text("no markers")
    out = tmp_path / "out"
    assert main(["--out", str(out), "--markdown", str(document)]) == 1
    assert BEGIN in capsys.readouterr().err
    assert not out.exists()
    assert main(["--out", str(tmp_path)]) == 1
    assert "is not empty: give a new directory" in capsys.readouterr().err
    assert main(["--out", str(out), "--requests", "0"]) == 2
    assert "must be positive" in capsys.readouterr().err
    assert main(["--out", str(out), "--requests", "1", "--hours", "1"]) == 1
    assert "give more --hours" in capsys.readouterr().err
