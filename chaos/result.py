"""What became of a fault."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """What a comparison found; a line for each row or key that differs."""

    compared: int
    missing: tuple[str, ...] = ()
    wrong_or_twice: tuple[str, ...] = ()
    stray: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many rows differ, or files should not be there."""
        return len(self.missing) + len(self.wrong_or_twice) + len(self.stray)


@dataclass(frozen=True)
class Result:
    """One fault: seconds after it was made, and what the comparison found."""

    number: int
    fault: str
    what: str
    #: None for a fault that only slows the job down, or that an operator makes
    detected_s: float | None
    running_s: float
    caught_up_s: float
    difference: Difference
    #: what the audit could not account for; None where it was not run
    unaccounted: int | None = None
