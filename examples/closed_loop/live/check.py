"""The samples beside what really happened: which rows must be there, and with which labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.dataset as ds

from examples.closed_loop.live.journal import Shown
from jobs.pipeline.config import Pipeline
from schemas import generations

#: An impression: the request and the item.
_Key = tuple[str, str]


@dataclass(frozen=True)
class Row:
    """A sample: `delays` (ms) by kind, kinds that it has `labels` of, and how it was shown."""

    delays: Mapping[str, int]
    labels: frozenset[str]
    position: int
    model: str | None


_EXAMPLES = 5


@dataclass
class KindCheck:
    """First actions of one kind on an item: how many users made, and where they are.

    `in_window`: those that the window allows to be labels; `labels`: those that are.
    """

    made: int = 0
    in_window: int = 0
    labels: int = 0

    @property
    def complete(self) -> float:
        """The share of all that are labels; 1.0 where users made none."""
        return self.labels / self.made if self.made else 1.0


@dataclass
class Check:
    """What came out of the comparison. `examples`: a few lines about what is wrong.

    `lost_requests`: were answered just before their ranking service was killed, and their features
    never reached the broker. They have no samples, and are no fault of the join.
    """

    rows: int = 0
    missing: int = 0
    stray: int = 0
    wrong: int = 0
    lost_requests: int = 0
    kinds: dict[str, KindCheck] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether every row and every label is as the world says."""
        return not (self.missing or self.stray or self.wrong)

    def _note(self, text: str) -> None:
        if len(self.examples) < _EXAMPLES:
            self.examples.append(text)


def check(
    shown: Iterable[Shown],
    output: Path,
    pipeline: Pipeline,
    may_be_lost: Callable[[Shown], bool] = lambda _: False,
) -> Check:
    """Compare all samples under `output` with the requests that were `shown`.

    The policy must be one that writes a last row for each impression, without sampling, and the
    join must be drained. `may_be_lost`: whether a request's features may be lost with a service.
    """
    found = Check(kinds={kind: KindCheck() for kind in pipeline.actions})
    windows = {kind: int(action.window) for kind, action in pipeline.actions.items()}
    rows = _rows(output, list(windows))
    found.rows = len(rows)
    requests = {request for request, _ in rows}
    for one in shown:
        expected = _expected(one, windows)
        lost = one.request_id not in requests and bool(expected) and may_be_lost(one)
        if lost:
            found.lost_requests += 1
        for (kind, item), at in one.actions.items():
            of_kind = found.kinds[kind]
            of_kind.made += 1
            of_kind.in_window += at - one.time <= windows[kind]
            row = rows.get((one.request_id, item))
            of_kind.labels += row is not None and kind in row.labels
        for item, delays in expected.items():
            row = rows.pop((one.request_id, item), None)
            if row is None:
                if not lost:
                    found.missing += 1
                    found._note(f"{one.request_id} {item}: no sample, though {delays}")
            elif not _says(row, one, item, delays):
                found.wrong += 1
                found._note(f"{one.request_id} {item}: the sample says {row}, the world {delays}")
    found.stray = len(rows)
    for (request, item), row in list(rows.items())[:_EXAMPLES]:
        found._note(f"{request} {item}: a sample ({row}) of what nobody has seen")
    return found


def _says(row: Row, shown: Shown, item: str, delays: Mapping[str, int]) -> bool:
    """Whether a sample says what happened, and how the item was shown."""
    if row.delays != delays or row.labels != delays.keys():
        return False
    if shown.asked_again:
        return True  # the first answer may have been another one, and the join keeps that
    return row.position == shown.items.index(item) and row.model == shown.model


def _expected(shown: Shown, windows: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """By item that was seen, the delay of each kind (ms) that its window allows."""
    found: dict[str, dict[str, int]] = {}
    for (kind, item), at in shown.actions.items():
        if at - shown.time <= windows[kind]:
            found.setdefault(item, {})[kind] = at - shown.time
    return found


def _rows(output: Path, kinds: list[str]) -> dict[_Key, Row]:
    """The last version of each sample."""
    names = ["request_id", "item_id", "position", "rank_model"]
    of_kinds = [f"{what}_{kind}{unit}" for kind in kinds for what, unit in _COLUMNS]
    files = [str(file) for file in generations.files(output, "samples")]
    table = ds.dataset(files, format="parquet").to_table(columns=[*names, "revision", *of_kinds])
    table = table.sort_by("revision")
    found: dict[_Key, Row] = {}
    columns = [table[name].to_pylist() for name in (*names, *of_kinds)]
    for request, item, position, model, *values in zip(*columns, strict=True):
        pairs = list(zip(kinds, values[::2], values[1::2], strict=True))
        found[request, item] = Row(
            {kind: delay for kind, delay, _ in pairs if delay is not None},
            frozenset(kind for kind, _, label in pairs if label),
            position,
            model,
        )
    return found


#: Of a kind: when, and what. A label of no action is 0 or null (join-semantics 7).
_COLUMNS = (("delay", "_ms"), ("label", ""))
