"""Which of the requests that an action matches holds it, when some came beyond the bounds?

With `key = "user_id"` a request that arrives when an earlier one has settled finds the actions of
the items that both show taken. The order of arrival is not known, so the rows have to tell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from tools.audit.actions import Assignment, Cell
from tools.audit.judges import Judge
from tools.audit.records import Action

Choice = tuple[Action, tuple[Cell, ...]]

#: So many impressions are looked at for each group of actions, times the actions in it.
_LOOKS = 2_000


def reassign(assignment: Assignment, expected: Judge) -> set[int]:
    """Moves actions to earlier requests where fewer impressions disagree with their rows then.

    Actions that may belong to the same impressions are moved together. Returns the impressions of
    which it cannot be told, since there are too many ways to divide the actions.
    """
    untold: set[int] = set()
    for choices in _groups(assignment.choices):
        impressions = {cell[1] for _, cells in choices for cell in cells}
        if all(expected.fits(i, expected.given(i)) for i in impressions):
            continue
        search = _Search(assignment, expected, choices)
        if not search.run():
            untold |= impressions
    return untold


def _groups(choices: Sequence[Choice]) -> Iterator[list[Choice]]:
    """Choices that share an impression, directly or by way of others; each group by time."""
    parent: dict[int, int] = {}

    def root(impression: int) -> int:
        while parent.setdefault(impression, impression) != impression:
            parent[impression] = impression = parent[parent[impression]]
        return impression

    for _, cells in choices:
        for cell in cells[1:]:
            parent[root(cell[1])] = root(cells[0][1])
    groups: dict[int, list[Choice]] = defaultdict(list)
    for choice in choices:
        groups[root(choice[1][0][1])].append(choice)
    for group in groups.values():
        yield sorted(group, key=lambda choice: choice[0].event.event_time)


class _Search:
    """Depth first over the choices of a group, latest request first; keeps the best division."""

    def __init__(self, assignment: Assignment, expected: Judge, choices: Sequence[Choice]) -> None:
        self._cells = assignment.cells
        self._expected = expected
        self._choices = choices
        # by choice, the impressions of which everything is decided with it
        last = {cell[1]: n for n, (_, cells) in enumerate(choices) for cell in cells}
        self._decided: list[list[int]] = [[] for _ in choices]
        for impression, n in last.items():
            self._decided[n].append(impression)
        self._impressions = list(last)
        self._looks = _LOOKS * len(choices)

    def run(self) -> bool:
        """Divides the actions in the best way. False if that could not be found in time."""
        before = [cells[0] for _, cells in self._choices]
        self._best, self._least = before, self._misfits(self._impressions)
        for (action, _), cell in zip(self._choices, before, strict=True):
            self._cells[cell].remove(action)
        in_time = self._go_on()
        for (action, _), cell in zip(self._choices, self._best, strict=True):
            self._cells[cell].append(action)
        return in_time or self._least == 0

    def _misfits(self, impressions: Sequence[int]) -> int:
        self._looks -= len(impressions)
        expected = self._expected
        return sum(not expected.fits(i, expected.given(i)) for i in impressions)

    def _go_on(self) -> bool:
        """Tries every way to divide the other actions. False if there are too many."""
        # not recursive: a group can be as large as what a user did to an item
        stack = [iter(self._choices[0][1])]
        counted = [0]
        chosen: list[Cell] = []
        while stack:
            n = len(stack) - 1
            action = self._choices[n][0]
            if len(chosen) > n:
                self._cells[chosen.pop()].remove(action)
            cell = next(stack[-1], None)
            if cell is None or self._least == 0 or self._looks < 0:
                stack.pop()
                counted.pop()
                continue
            self._cells[cell].append(action)
            chosen.append(cell)
            total = counted[-1] + self._misfits(self._decided[n])
            if total >= self._least:
                continue
            if n + 1 == len(self._choices):
                self._best, self._least = list(chosen), total
                continue
            stack.append(iter(self._choices[n + 1][1]))
            counted.append(total)
        return self._looks >= 0
