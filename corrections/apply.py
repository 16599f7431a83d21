"""Corrections: what late actions, those that came after their sample was written, change in it.

The input is rows of `samples/` and `late_actions/` (docs/sample-format.md); the output is rows of
kind "correction" (docs/corrections.md). Flink is not used here, so a trainer can use it as well as
the job.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from corrections.anew import NegativeRate, make_anew
from corrections.late_actions import by_sample, count
from corrections.result import CORRECTION, Corrections
from corrections.versions import latest, named, names
from corrections.written import correct_written, own_columns
from schemas.actions import ActionKind


def corrected(
    samples: pa.Table,
    late: pa.Table,
    kinds: Sequence[ActionKind],
    *,
    exposure: str | None = None,
    anew: bool = True,
    negative_rate: NegativeRate | None = None,
) -> pa.Table:
    """`samples` followed by the rows of `corrections`; `latest` of it is the corrected set.

    Rows of kind "correction" in `samples` are replaced, so `late` must have all late actions, not
    only new ones. Raises as `corrections` does.
    """
    written = samples.filter(pc.not_equal(samples["kind"], CORRECTION))
    made = corrections(
        written, late, kinds, exposure=exposure, anew=anew, negative_rate=negative_rate
    )
    return pa.concat_tables([written, made.rows])


def corrections(
    samples: pa.Table,
    late: pa.Table,
    kinds: Sequence[ActionKind],
    *,
    exposure: str | None = None,
    anew: bool = True,
    negative_rate: NegativeRate | None = None,
) -> Corrections:
    """One row for each sample that a late action (reason `after_settle`) changes.

    `samples` and `late` are tables as the join writes them. A row is the last revision of its
    sample, with new labels and delays by the aggregates of `kinds`. It has revision + 1 and kind
    "correction". All its kinds are mature, it was observed for the longest window, and it is
    exposed if exposure is known at all.

    A sample without a row was left out, by sampling or as unexposed. It is made anew from the
    features that a late action carries. With `anew` False, nothing leaves samples out, so a missing
    sample is only counted.

    `exposure`: the kind of `[exposure]`. `negative_rate`: the rate at which exposed negatives are
    written (None: all are written). If the sample is still an exposed negative, the decision
    whether to write it is the one that the join would have made. If it would not have been written
    then, but is a positive now, nobody knows whether an earlier exposure was discarded; so the
    label and the delay of the exposure kind are null.

    `sampling_rate` of a row that is no longer a negative is 1.0 if its actions carry features,
    because then samples that had been left out are made anew. Otherwise it stays, and the row
    stands for those samples too.

    Raises ValueError for samples without the columns of `kinds`, or features of another type.
    """
    missing = [name for name in own_columns(kinds) if name not in samples.column_names]
    if missing:
        raise ValueError(f"the samples have no column {missing[0]!r}")
    made = Corrections(samples.slice(0, 0))
    actions = by_sample(late, {kind.name: kind for kind in kinds}, made.fates)
    written = samples.filter(pc.not_equal(samples["kind"], CORRECTION))
    # after the filter by id, few rows must be compared by name
    base = written.filter(pc.is_in(written["sample_id"], value_set=late["sample_id"]))
    base = latest(named(base, actions))
    rows = [correct_written(base, actions, kinds, exposure, made)]
    found = set(names(base))
    absent = {name: of_sample for name, of_sample in actions.items() if name not in found}
    if anew:
        rows.append(make_anew(absent, samples.schema, kinds, exposure, negative_rate, made))
    else:
        for of_sample in absent.values():
            count(made.fates, of_sample, "not_written")
    made.rows = pa.concat_tables(rows)
    return made
