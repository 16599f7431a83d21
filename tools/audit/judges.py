"""The judge of single impressions for an output that was made with several configurations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from tools.audit.expected import Expected, Given
from tools.audit.records import Action
from tools.audit.samples import Mask


class AnyOf:
    """Several `Expected`: whatever one of them explains is right."""

    def __init__(self, judges: Sequence[Expected]) -> None:
        self._judges = judges
        self.given = judges[0].given
        self.read = judges[0].read
        self.label = judges[0].label

    def fits(self, impression: int, given: Given) -> bool:
        """For one of them."""
        return any(judge.fits(impression, given) for judge in self._judges)

    def why_no_row(self, impression: int, given: Given) -> str | None:
        """The first reason that there is."""
        reasons = (judge.why_no_row(impression, given) for judge in self._judges)
        return next((reason for reason in reasons if reason is not None), None)

    def may_lack_final(self, impression: int, given: Given) -> bool:
        """For one of them."""
        return any(judge.may_lack_final(impression, given) for judge in self._judges)

    def is_partial(self, row: int, given: Given) -> bool:
        """For all of them."""
        return all(judge.is_partial(row, given) for judge in self._judges)

    def agrees(self, k: int, row: int, given: Given, actions: Sequence[Action]) -> bool:
        """For one of them."""
        return any(judge.agrees(k, row, given, actions) for judge in self._judges)

    def wrong_rate(self, row: int) -> str | None:
        """What is wrong for all of them."""
        wrong = [judge.wrong_rate(row) for judge in self._judges]
        return None if None in wrong else wrong[0]

    def negative_rows(self) -> Mask:
        """Negatives for one of them."""
        rows: Mask = np.logical_or.reduce([judge.negative_rows() for judge in self._judges])
        return rows

    def may_be_sampled_out(self, impression: int) -> bool:
        """For one of them."""
        return any(judge.may_be_sampled_out(impression) for judge in self._judges)

    def may_have_become_negative(self, impression: int) -> bool:
        """For one of them."""
        return any(judge.may_have_become_negative(impression) for judge in self._judges)

    def last_revision_at_most(self, impression: int) -> int:
        """The greatest."""
        return max(judge.last_revision_at_most(impression) for judge in self._judges)


#: What the checks ask.
Judge: TypeAlias = Expected | AnyOf
