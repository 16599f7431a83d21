"""A source that falls idle, or is active again, between batches: nothing is overtaken by that."""

from __future__ import annotations

import random
from pathlib import Path

from tests import configured
from tests.flink import running
from tests.strategies import rules_for

LINES = 2_000
END = f"wm {2**63 - 1}"


def script(seed: int) -> list[str]:
    """Records, watermarks and statuses. While a source is idle, its watermark does not count."""
    choose, active, time = random.Random(seed), True, 0
    lines: list[str] = []
    while len(lines) < LINES or not active:
        kind = choose.choice(("record", "record", "wm", "status"))
        if kind == "record":
            lines.append(f"r{len(lines)}")
        elif kind == "status":
            active = not active
            lines.append("active" if active else "idle")
        elif active:
            time += choose.randrange(1, 5)
            lines.append(f"wm {time}")
    return lines


def test_a_status_comes_behind_all_that_came_before_it(tmp_path: Path) -> None:
    given = script(1)
    (tmp_path / "script.txt").write_text("\n".join(given))
    (tmp_path / "pipeline.toml").write_text(configured.toml(rules_for("request_id")[0]))
    done = running.run_module("tests.flink.status_job", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    decoded, joined = (
        (tmp_path / name).read_text().splitlines() for name in ("records.txt", "keyed.txt")
    )
    assert decoded == [*given, END]
    check_joined(joined, [*given, END])


def check_joined(heard: list[str], given: list[str]) -> None:
    """Watermarks may wait for the end of a batch, and are then sent behind it: only the last."""
    assert [x for x in heard if not x.startswith("wm")] == [
        x for x in given if not x.startswith("wm")
    ]
    at = {line: n for n, line in enumerate(given)}
    records = 0
    last = None
    for line in heard:
        if line.startswith("r"):
            records += 1
        elif line.startswith("wm"):
            assert records >= sum(x.startswith("r") for x in given[: at[line]]), line
            last = line
    assert last == END
    assert marks_by_status(heard) == marks_by_status(given)


def marks_by_status(lines: list[str]) -> list[str]:
    """The watermark that each status comes behind."""
    mark, found = "", []
    for line in lines:
        if line.startswith("wm"):
            mark = line
        elif not line.startswith("r"):
            found.append(f"{line} {mark}")
    return found
