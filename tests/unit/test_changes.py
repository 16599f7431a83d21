"""The configuration changes while requests and actions are in state, as over a savepoint."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.audited import Story, outcome_of_changes
from tests.effort import examples
from tests.strategies import Choose, any_rules, build, policies_for, rules_for
from tests.timeline import MANY, EmitPositives, FinalEmit, Key, Rules, apart
from tools.audit.command import audit

KEYS: tuple[Key, ...] = ("request_id", "user_id")
APART_MS = 2_000


def _changed(choose: Choose, rules: Rules) -> Rules:
    """With other durations, and often with another policy; kinds and features stay."""
    other = replace(
        rules,
        windows={kind: choose((5, 10, 25, 40)) for kind in rules.windows},
        lateness=choose((0, 4)),
        skew=choose((0, 3)),
        horizon=choose((None, 90)),
        max_actions=choose((rules.max_actions, rules.max_actions, 1, 2, MANY)),
    )
    if choose((False, True)):
        first = choose((None, 0, 2))
        emit_positives: EmitPositives = choose(("at_settle", "on_arrival"))
        finals: tuple[FinalEmit, ...] = ("always", "if_changed", "never")
        if first is not None and emit_positives == "at_settle":
            finals = finals[:2]  # "never" would lose positives, and is refused
        other = replace(
            other,
            first_emit_after=first,
            emit_positives=emit_positives,
            final_emit=choose(finals),
        )
    first = other.first_emit_after
    return other if first is None or first < other.longest else replace(other, first_emit_after=1)


def _configurations(key: Key, rng: random.Random) -> Iterator[Rules]:
    drawn = (any_rules(rng.choice, key) for _ in range(6))
    for rules in (*rules_for(key), *policies_for(key).values(), *drawn):
        yield replace(rules, silence=None)


@pytest.mark.parametrize("key", KEYS)
def test_nothing_is_forgotten_over_two_changes_and_the_audit_closes(
    key: Key, tmp_path: Path
) -> None:
    """The runner itself asserts that no state is left at the end."""
    rng = random.Random(3)
    accused = 0
    for n, rules in enumerate(_configurations(key, rng)):
        made = [build(rng.choice, rules) for _ in range(examples(20))]
        timeline = apart(made, APART_MS, rules)
        second, third = _changed(rng.choice, rules), _changed(rng.choice, rules)
        events = len(timeline.events)
        story = Story(tmp_path / str(n), timeline, third)
        changes = {events // 4: second, events // 2: third}
        story.write(outcome_of_changes(timeline, rules, changes))
        accused += not audit(story.pipeline).closes  # by the last configuration alone
        story.note_starts([rules, second, third])
        report = audit(story.pipeline)
        assert report.findings == []
        assert {numbers["difference"] for numbers in report.numbers().values()} == {0}
    assert accused > n / 2
