"""What each row says about each action: labels and weights, for each loss.

docs/emission-policies.md lists the rows of each policy. A sample has several rows, and a loss takes
those that its derivation is about. That is decided here for a whole chunk at once, from the columns
that every row has. Importance weights that depend on the model are in `trainer.losses.objective`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trainer.features.batch import Floats, Targets
from trainer.limits import MIN_SAMPLING_RATE

LossKind = Literal["plain", "fnw", "es_dfm", "defer"]
Sampling = Literal["importance", "log_odds", "none"]

Bools = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int64]

#: In `counts` of `targets`: positive rows for which it is unknown what is new in them.
UNCLEAR = "unclear"

_NO_DELAY = -(2**62)
_NOT_OBSERVED = -(2**61)


class LossRules(msgspec.Struct, frozen=True):
    """What `targets` follows.

    `actions`: what is learned, in the order of the model's heads. `kinds`: all kinds of the
    pipeline, in its order (empty: the actions are all). They are needed because a row may be there
    because of a kind that is not learned. `first_emit_after_ms`: the policy's d. `repeats`: some
    kind has an aggregate other than `any`, so a row can change its label without the kind being new
    in it.

    `sampling`: "importance": a negative written at rate r stands for 1/r. "log_odds": the logit is
    corrected by the rate instead; this needs `rate`, that of the negatives (see `offset`). "none":
    neither.

    Raises ValueError for settings that contradict each other.
    """

    loss: LossKind
    actions: tuple[str, ...]
    first_emit_after_ms: int | None = None
    sampling: Sampling = "importance"
    repeats: bool = False
    kinds: tuple[str, ...] = ()
    rate: float | None = None

    def __post_init__(self) -> None:
        strange = [name for name in self.actions if name not in self.all_kinds]
        if strange:
            raise ValueError(f"the pipeline has no action {strange[0]!r}")
        if self.loss != "plain" and self.first_emit_after_ms is None:
            raise ValueError(f"{self.loss} learns from first rows: it needs first_emit_after")
        if self.loss == "fnw" and self.first_emit_after_ms != 0:
            raise ValueError(
                "fnw takes it that every positive was a negative first, which is so with "
                "first_emit_after = 0; with a later first row use es_dfm"
            )
        if self.sampling == "log_odds" and not (self.rate is not None and 0 < self.rate <= 1):
            raise ValueError(f"log_odds needs the rate of negatives, in (0, 1]; got {self.rate}")

    @property
    def all_kinds(self) -> tuple[str, ...]:
        """All kinds of the pipeline: `kinds`, or the actions where that is empty."""
        return self.kinds or self.actions

    @property
    def offset(self) -> float:
        """What the loss adds to the logits of the actions (`objective.row_losses`).

        If negatives are written at rate r, the odds in the written rows are the odds of the traffic
        divided by r. So -log r is added to the traffic's logit. This inverts q = p / (p + (1 - p) /
        w) in He et al., Practical lessons from predicting clicks on ads at Facebook, ADKDD 2014.
        """
        return 0.0 if self.sampling != "log_odds" or self.rate is None else -math.log(self.rate)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that `targets` reads of a table."""
        # a final row says all about each kind
        kinds = self.actions if self.loss == "plain" else self.all_kinds
        delays = [f"delay_{kind}_ms" for kind in kinds]
        mature = [f"mature_{action}" for action in self.actions]
        of_versions = () if self.loss == "plain" else ("observed_ms", "revision")
        return (*delays, *mature, *of_versions, "exposed", "sampling_rate", "kind")


def targets(
    table: pa.Table,
    rules: LossRules,
    changed: Bools | None = None,
    counts: Counter[str] | None = None,
) -> Targets:
    """What the rows of `table` say about each action.

    `changed`, (rows, kinds): for corrections, the kinds that are known to have happened only
    because of them (`trainer.reading.late_actions`). `counts`: counts rows that are not used
    because of what they lack.

    A label says whether the action was known when the row was written. A row has a weight for
    action k

    * for `plain`: if it is `final`, and the window of k had closed (an open window has positives
      but no negatives, so neither counts);
    * for `fnw` and `es_dfm`: if it is the first of its sample, or a `positive` row in which k is
      new;
    * for `defer`: if it is one of these, or the `final` row of a sample that had no row in which k
      was new;
    * for all: if it is a correction that makes a positive for k.

    A row that is not exposed says nothing about an action that it does not have. The head of
    delayed positives learns from the first rows and their duplicates (es_dfm), or from the second
    row of each sample (defer).

    Raises ValueError for a sampling rate that is null or no rate, and for corrections without
    `changed`; KeyError for a column that is missing.
    """
    if rules.loss == "plain":
        return _plain(table, rules, changed)
    rows = _rows(table, rules)
    if changed is None and rows.correction.any():
        raise ValueError("corrections need to say what they change")
    if counts is not None:
        counts[UNCLEAR] += int(np.count_nonzero(rows.positive & ~rows.told & ~rows.first))
    stands_for = _stands_for(table, rules)
    none: Bools = np.zeros(table.num_rows, bool)
    width = len(rules.actions)
    labels: Floats = np.zeros((table.num_rows, width), np.float32)
    weights = np.zeros_like(labels)
    with_delayed = rules.loss in ("es_dfm", "defer")
    delayed: Floats = np.zeros((table.num_rows, width if with_delayed else 0), np.float32)
    delayed_weights = np.zeros_like(delayed)
    for n, action in enumerate(rules.actions):
        kind = rules.all_kinds.index(action)
        acted = rows.delays[kind] != _NO_DELAY
        new = rows.new(kind)
        corrects = none if changed is None else rows.correction & changed[:, kind]
        # a second row for k, or no row that says more than the first
        final = rows.final & _true(table[f"mature_{action}"])
        if rules.loss == "defer":
            known_at_first = acted & (rows.delays[kind] <= (rules.first_emit_after_ms or 0))
            second = ~rows.first & ((final & ~acted) | (rows.final & known_at_first))
            takes = rows.first | new | second | corrects
            delayed[:, n] = new
            delayed_weights[:, n] = stands_for * (second | (new & ~rows.first))
        else:
            takes = rows.first | new | corrects
            if with_delayed:
                delayed[:, n] = (new & ~rows.first) | corrects
                delayed_weights[:, n] = stands_for * takes
        takes &= acted | rows.shown
        labels[:, n] = acted
        weights[:, n] = _weighed(acted, takes, stands_for, rules)
        if with_delayed:
            delayed_weights[:, n] *= takes
    return Targets(labels, weights, delayed, delayed_weights)


def _plain(table: pa.Table, rules: LossRules, changed: Bools | None) -> Targets:
    """As `targets`, for `plain`: final rows and corrections. It needs few of the columns."""
    kind_is = _kinds(table["kind"])
    final, correction = kind_is["final"], kind_is["correction"]
    if changed is None and correction.any():
        raise ValueError("corrections need to say what they change")
    stands_for = _stands_for(table, rules)
    shown = ~_true(pc.invert(table["exposed"]))
    labels: Floats = np.zeros((table.num_rows, len(rules.actions)), np.float32)
    weights = np.zeros_like(labels)
    for n, action in enumerate(rules.actions):
        acted = table[f"delay_{action}_ms"].is_valid().to_numpy()
        takes = final & _true(table[f"mature_{action}"])
        if changed is not None:
            takes |= correction & changed[:, rules.all_kinds.index(action)]
        takes &= acted | shown
        labels[:, n] = acted
        weights[:, n] = _weighed(acted, takes, stands_for, rules)
    none = np.zeros((table.num_rows, 0), np.float32)
    return Targets(labels, weights, none, none)


def _weighed(acted: Bools, takes: Bools, stands_for: Floats, rules: LossRules) -> Floats:
    weights: Floats = stands_for * takes
    if rules.sampling == "log_odds":
        # What is negative for k at full rate, as another kind happened, is brought down to the
        # rate of the others: then one offset is right for all.
        weights[~acted] *= np.float32(rules.rate)
    return weights


@dataclass
class _Rows:
    """Facts per row; `delays` and `is_new` per kind. `told`: it is known what is new in the row."""

    positive: Bools
    final: Bools
    correction: Bools
    first: Bools
    shown: Bools
    told: Bools
    delays: list[Times]
    is_new: list[Bools]

    def new(self, kind: int) -> Bools:
        return self.positive & self.is_new[kind]


def _rows(table: pa.Table, rules: LossRules) -> _Rows:
    kind_is = _kinds(table["kind"])
    observed = _integers(table["observed_ms"], _NOT_OBSERVED)
    delays = [_integers(table[f"delay_{kind}_ms"], _NO_DELAY) for kind in rules.all_kinds]
    is_new = [delay == observed for delay in delays]
    told = np.logical_or.reduce(is_new)
    # Of provisional rows after the first, one counts as the first: that in which the exposure came.
    first = ~kind_is["correction"] & (_integers(table["revision"], 0) == 0)
    if rules.repeats:
        first |= kind_is["provisional"] & told
    else:
        first |= kind_is["provisional"]
        # A straggler came into its row later than it happened. Each kind changes once at most, and
        # the others are there already, so the latest is the best guess.
        latest = np.maximum.reduce(delays)
        straggles = ~told & (latest != _NO_DELAY)
        is_new = [
            new | (straggles & (delay == latest)) for new, delay in zip(is_new, delays, strict=True)
        ]
        told = told | straggles
    return _Rows(
        kind_is["positive"],
        kind_is["final"],
        kind_is["correction"],
        first,
        ~_true(pc.invert(table["exposed"])),
        told,
        delays,
        is_new,
    )


def _kinds(column: pa.ChunkedArray) -> dict[str, Bools]:
    names = ("provisional", "positive", "final", "correction")
    if pa.types.is_dictionary(column.type):
        encoded = column.unify_dictionaries()
        values = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
        indices = pa.chunked_array([c.indices for c in encoded.chunks], column.type.index_type)
        codes = indices.fill_null(len(values)).to_numpy()
        index = {value: n for n, value in enumerate(values)}
        return {name: codes == index.get(name, -1) for name in names}
    return {name: _true(pc.equal(column, name)) for name in names}


def _stands_for(table: pa.Table, rules: LossRules) -> Floats:
    """How many impressions a row stands for, because negatives were sampled."""
    if rules.sampling == "none":
        return np.ones(table.num_rows, np.float32)
    rates = pc.fill_null(table["sampling_rate"], 0.0).to_numpy()
    known = (rates >= MIN_SAMPLING_RATE) & (rates <= 1.0)
    if not known.all():
        at = int(np.argmin(known))
        raise ValueError(
            f"sampling_rate is {table['sampling_rate'][at].as_py()} in row {at}, and says for how "
            f"many a row stands only from {MIN_SAMPLING_RATE:.3g} to 1; "
            'loss.sampling = "none" does not read it'
        )
    return np.asarray(1.0 / rates, np.float32)


def _integers(column: pa.ChunkedArray, null: int) -> Times:
    if column.null_count:
        column = pc.fill_null(column, pa.scalar(null, column.type))
    return np.asarray(column.to_numpy(), np.int64)


def _true(column: pa.ChunkedArray) -> Bools:
    """Where a boolean column is true; a null counts as false."""
    if column.null_count:
        column = pc.fill_null(column, False)
    return np.asarray(column.to_numpy(), bool)
