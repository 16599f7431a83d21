"""The comparison of policies end to end: a small day, two policies, one window."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.compare_policies import command as compare_policies

pytestmark = pytest.mark.thorough


def test_two_policies_over_a_small_day(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = tmp_path / "d.md"
    document.write_text(f"{compare_policies.BEGIN}\n{compare_policies.END}\n")
    code = compare_policies.main(
        [
            *("--out", str(tmp_path / "out"), "--markdown", str(document)),
            *("--requests", "200", "--hours", "4", "--seed", "3"),
            *("--policy", "wait", "--policy", "fake_negative", "--window", "30min"),
        ]
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in document.read_text().splitlines()
        if line.startswith(("| wait", "| fake_negative"))
    ]
    clicks_wait, clicks_at_once = rows[0], rows[1]
    assert clicks_wait[2] == "1.000"
    assert clicks_wait[3:5] == ["30 min", "30 min"]
    assert float(clicks_at_once[2]) > 1
    assert clicks_at_once[3:5] == ["2.0 s", "2.0 s"]
    # almost every click is first a negative, and hardly any one in the end
    assert int(clicks_at_once[5]) > 10 * int(clicks_wait[5])
    assert clicks_at_once[7] == clicks_wait[7]
