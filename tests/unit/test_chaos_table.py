"""The tables of `make chaos`: seconds and rows by kind."""

from __future__ import annotations

from chaos.result import Difference, Result
from chaos.run import DRAIN
from chaos.table import markdown
from chaos.trainer_run import END


def result(fault: str, seconds: float, rows: int, missing: int = 0, audit: int = 0) -> Result:
    difference = Difference(rows, missing=("a row",) * missing)
    return Result(1, fault, "it", None, seconds, seconds + 1, difference, audit)


def test_kinds_have_medians_and_each_row_once() -> None:
    lines = markdown(
        [
            result("kill", 1.0, 100),
            result("cut", 2.0, 150, missing=2),
            result("kill", 3.0, 180),
            result(DRAIN, 4.0, 200, audit=3),
            result("kill", 9.0, 40),
            result(END, 5.0, 60),
            result(END, 5.0, 30),
        ]
    ).splitlines()
    assert lines[2:] == [
        "| kill | 3 | - | 3.0 (to 9.0) | 4.0 (to 10.0) | 170 | 0 |",
        "| cut | 1 | - | 2.0 | 3.0 | 50 | 2 |",
        f"| {DRAIN} | 1 | - | 4.0 | 5.0 | 20 | 3 |",
        f"| {END} | 2 | - | 5.0 (to 5.0) | 6.0 (to 6.0) | 50 | 0 |",
    ]
