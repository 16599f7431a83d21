"""An outcome with one thing wrong in it: what an audit is there to find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from tests.strategies import Choose
from tests.timeline import Outcome, Row, Rules

T = TypeVar("T")
Spoil = Callable[[Choose, Outcome, Rules], Outcome | None]


def _another_label(choose: Choose, row: Row, rules: Rules) -> Row | None:
    kind = choose(sorted(row.labels))
    value = row.labels[kind]
    if rules.labels[kind] == "any":
        other: int | float | None = 1 - int(value or 0)
    else:
        other = 7 if value != 7 else 8
    delays = dict(row.delays)
    if delays[kind] is None:
        delays[kind] = 0
    elif rules.labels[kind] == "any":
        delays[kind] = None
    return replace(row, labels={**row.labels, kind: other}, delays=delays)


def _another_delay(choose: Choose, row: Row, rules: Rules) -> Row | None:
    kinds = [kind for kind, delay in row.delays.items() if delay is not None]
    if not kinds:
        return None
    kind = choose(kinds)
    # below any that an action can have
    return replace(row, delays={**row.delays, kind: -rules.skew - 1})


def _observed_too_long(choose: Choose, row: Row, rules: Rules) -> Row | None:
    return replace(row, observed_ms=rules.longest + 1)


def _mature(choose: Choose, row: Row, rules: Rules) -> Row | None:
    kind = choose(sorted(row.mature))
    return replace(row, mature={**row.mature, kind: not row.mature[kind]})


def _exposed(choose: Choose, row: Row, rules: Rules) -> Row | None:
    return replace(row, exposed=not row.exposed)


def _rate(choose: Choose, row: Row, rules: Rules) -> Row | None:
    return replace(row, sampling_rate=(row.sampling_rate + 1.5) / 2)


def _revision(choose: Choose, row: Row, rules: Rules) -> Row | None:
    return replace(row, revision=row.revision + 100)


def _of_rows(change: Callable[[Choose, Row, Rules], Row | None], *, final: bool) -> Spoil:
    def spoil(choose: Choose, outcome: Outcome, rules: Rules) -> Outcome | None:
        rows = [n for n, row in enumerate(outcome.rows) if not final or row.kind == "final"]
        if not rows:
            return None
        n = choose(rows)
        other = change(choose, outcome.rows[n], rules)
        if other is None:
            return None
        return replace(outcome, rows=(*outcome.rows[:n], other, *outcome.rows[n + 1 :]))

    return spoil


def _without_row(*, final: bool = False) -> Spoil:
    def spoil(choose: Choose, outcome: Outcome, rules: Rules) -> Outcome | None:
        rows = [n for n, row in enumerate(outcome.rows) if not final or row.kind == "final"]
        return replace(outcome, rows=_but_one(choose, outcome.rows, rows)) if rows else None

    return spoil


def _without_late(choose: Choose, outcome: Outcome, rules: Rules) -> Outcome | None:
    late = outcome.late
    return replace(outcome, late=_but_one(choose, late, range(len(late)))) if late else None


def _without_rejected(choose: Choose, outcome: Outcome, rules: Rules) -> Outcome | None:
    rejected = outcome.rejected
    if not rejected:
        return None
    return replace(outcome, rejected=_but_one(choose, rejected, range(len(rejected))))


def _but_one(choose: Choose, there: tuple[T, ...], numbers: Sequence[int]) -> tuple[T, ...]:
    n = choose(numbers)
    return (*there[:n], *there[n + 1 :])


def _twice(choose: Choose, outcome: Outcome, rules: Rules) -> Outcome | None:
    return replace(outcome, rows=(*outcome.rows, choose(outcome.rows))) if outcome.rows else None


def _another_reason(choose: Choose, outcome: Outcome, rules: Rules) -> Outcome | None:
    if not outcome.late:
        return None
    n = choose(range(len(outcome.late)))
    late = outcome.late[n]
    other = replace(late, reason="after_settle")
    if late.reason == "after_settle":
        other = replace(late, reason="outside_window")
    return replace(outcome, late=(*outcome.late[:n], other, *outcome.late[n + 1 :]))


#: By what is wrong then.
SPOILS: dict[str, Spoil] = {
    "another label in a final row": _of_rows(_another_label, final=True),
    "another label in a row": _of_rows(_another_label, final=False),
    "another delay": _of_rows(_another_delay, final=False),
    "observed for too long": _of_rows(_observed_too_long, final=False),
    "not as mature": _of_rows(_mature, final=False),
    "not as exposed": _of_rows(_exposed, final=False),
    "another rate": _of_rows(_rate, final=False),
    "a gap in the revisions": _of_rows(_revision, final=False),
    "a final row is missing": _without_row(final=True),
    "a row is missing": _without_row(),
    "a row is there twice": _twice,
    "a late action is missing": _without_late,
    "a late action has another reason": _another_reason,
    "a rejected record is missing": _without_rejected,
}


def spoiled(choose: Choose, outcome: Outcome, rules: Rules) -> Iterator[tuple[str, Outcome]]:
    """One of each kind, where there is something to spoil."""
    for name, spoil in SPOILS.items():
        other = spoil(choose, outcome, rules)
        if other is not None:
            yield name, other
