"""Does every row of samples/ belong to an impression of the source, and say what that says?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas import samples
from tools.audit.eras import Eras
from tools.audit.impressions import Ints
from tools.audit.output import File, Output
from tools.audit.records import Request, Source
from tools.audit.report import Account, Report

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

#: Rows that are looked at one by one; beyond it a file is broken as a whole.
_NAMED_PER_FILE = 10_000

KINDS = ("provisional", "positive", "final")


@dataclass
class Rows:
    """The rows that belong to an impression, as columns, by (impression, revision); no version is
    there twice.

    `labels` and `delays` (ms): by kind, NaN for null. `observed`: ms, NaN for null. `kind`: a
    number of `KINDS`. `last`: it is the last version of its sample that is there. `file`: a number
    of `files`. `wrong`: something was found about it.
    """

    impression: Ints
    revision: Ints
    file: Ints
    labels: list[Floats]
    delays: list[Floats]
    observed: Floats
    exposed: Floats
    rate: Floats
    final: Mask
    last: Mask
    wrong: Mask
    kind: Ints
    files: list[str]

    def __len__(self) -> int:
        return len(self.impression)

    @property
    def right(self) -> dict[str, int]:
        """By kind, how many rows nothing was found about."""
        return {k: int(((self.kind == i) & ~self.wrong).sum()) for i, k in enumerate(KINDS)}


class SampleReader:
    """Reads `samples/` file by file, and holds each against the source."""

    def __init__(self, eras: Eras, source: Source, report: Report) -> None:
        pipeline = eras.present
        self._eras = eras
        self._pipeline = pipeline
        self._source = source
        self._report = report
        self._schema = samples.samples(pipeline.schema, pipeline.kinds)
        self._by_id: dict[str, list[int]] = defaultdict(list)
        for n, request in enumerate(source.accepted):
            self._by_id[request.request_id].append(n)
        accepted = source.accepted
        self._times = np.array([r.event_time for r in accepted], dtype=np.int64)
        self._firsts = np.array([r.first for r in accepted], dtype=np.int64)
        # one more, for rows without a request to look at
        self._lengths = np.array([*(len(r.items) for r in accepted), 0], dtype=np.int64)
        self._users = pa.array([r.user_id for r in accepted], type=pa.string())

    def read(self, output: Output, account: Account, progress: Callable[[int, int], None]) -> Rows:
        """All rows; those that come in go to the account. `progress` is told how many files are
        done, and how many there are.
        """
        files = output.files("samples")
        parts: list[dict[str, Floats]] = []
        for n, file in enumerate(files):
            table = output.read(file, self._schema)
            account.came_in += len(table)
            parts.append(self._of_file(n, file, table))
            progress(n + 1, len(files))
        kinds = self._pipeline.kinds
        names = [*_NUMBERS, *(f"{w}{k}" for k in range(len(kinds)) for w in ("label", "delay"))]
        whole = {name: np.concatenate([_EMPTY, *(p[name] for p in parts)]) for name in names}
        order = np.lexsort((whole["revision"], whole["impression"]))
        whole = {name: column[order] for name, column in whole.items()}
        whole = self._without_copies(whole, [f.name for f in files])
        impression = whole["impression"].astype(np.int64)
        kind = np.nan_to_num(whole["kind"], nan=-1).astype(np.int64)
        last = np.ones(len(impression), dtype=bool)
        last[:-1] = impression[1:] != impression[:-1]
        return Rows(
            impression,
            whole["revision"].astype(np.int64),
            whole["file"].astype(np.int64),
            [whole[f"label{k}"] for k in range(len(kinds))],
            [whole[f"delay{k}"] for k in range(len(kinds))],
            whole["observed"],
            whole["exposed"],
            whole["rate"],
            kind == KINDS.index("final"),
            last,
            whole["wrong"] != 0,
            kind,
            [f.name for f in files],
        )

    def _of_file(self, number: int, file: File, table: pa.Table) -> dict[str, Floats]:
        """The columns that are kept, of those rows that have an impression."""
        requests, why = self._requests_of(table)
        position = _floats(table["position"])
        known = requests >= 0
        inside = known & (position >= 0) & (position < self._lengths[requests])
        for row in np.flatnonzero(~inside)[:_NAMED_PER_FILE]:
            self._name(table, row, file, why.get(int(row), "there is no such impression"))
        table = table.filter(pa.array(inside))
        requests = requests[inside]
        at: Ints = position[inside].astype(np.int64)
        impressions = self._firsts[requests] + at
        wrong = self._differences(table, file, requests, impressions)
        out = {
            "impression": impressions.astype(np.float64),
            "revision": _floats(table["revision"]),
            "file": np.full(len(table), number, dtype=np.float64),
            "observed": _floats(table["observed_ms"]),
            "exposed": _floats(table["exposed"].cast(pa.int8())),
            "rate": _floats(table["sampling_rate"]),
            "kind": _floats(pc.index_in(table["kind"], value_set=pa.array(KINDS))),
            "wrong": wrong.astype(np.float64),
        }
        for k, kind in enumerate(self._pipeline.kinds):
            out[f"label{k}"] = _floats(table[f"label_{kind.name}"])
            out[f"delay{k}"] = _floats(table[f"delay_{kind.name}_ms"])
        return out

    def _requests_of(self, table: pa.Table) -> tuple[Ints, dict[int, str]]:
        """The number of each row's accepted request (-1: none), and why it has none."""
        coded = table["request_id"].combine_chunks().dictionary_encode()
        codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        several = -2
        numbers = np.full(len(coded.dictionary) + 1, -1, dtype=np.int64)
        for code, request_id in enumerate(coded.dictionary.to_pylist()):
            found = self._by_id.get(request_id, ())
            numbers[code] = found[0] if len(found) == 1 else several if found else -1
        requests = numbers[codes]
        for row in np.flatnonzero(requests == several).tolist():
            one = table.slice(row, 1).to_pylist()[0]
            requests[row] = self._one_of(self._by_id[one["request_id"]], one)
        why = {
            int(r): "no accepted request has its request_id" for r in np.flatnonzero(requests < 0)
        }
        return requests, why

    def _one_of(self, numbers: Sequence[int], row: dict[str, object]) -> int:
        """Ids may be used again: by another user, or when they are forgotten."""

        def fits(request: Request) -> tuple[bool, bool, bool]:
            same_time = request.event_time == row["event_time"]
            return (same_time, request.user_id == row["user_id"], not request.missing)

        return max(numbers, key=lambda n: fits(self._source.accepted[n]))

    def _differences(self, table: pa.Table, file: File, requests: Ints, impressions: Ints) -> Mask:
        """The rows that do not say what the source says; each is named once."""
        impression_of = self._source.impressions
        numbers = pa.array(impressions)
        expected: list[tuple[str, pa.Array]] = [
            ("user_id", self._users.take(pa.array(requests))),
            ("item_id", impression_of.item_id.take(numbers)),
            ("event_time", pa.array(self._times[requests])),
            ("sample_id", pa.array(impression_of.sample_id[impressions])),
        ]
        wrong = np.zeros(len(table), dtype=bool)
        for name, values in expected:
            self._differ(table, file, name, values, wrong)
        for feature in self._pipeline.schema.features:
            values = impression_of.feature(feature, impressions)
            self._differ(table, file, feature.name, values, wrong)
        observed = pc.fill_null(table["observed_ms"], -1).combine_chunks()
        for k, kind in enumerate(self._pipeline.kinds):
            name = f"mature_{kind.name}"
            windows = {pipeline.kinds[k].window_ms for pipeline in self._eras.pipelines}
            # under several windows either is right between them
            least = pc.greater_equal(observed, max(windows))
            most = pc.greater_equal(observed, min(windows))
            said = pc.fill_null(table[name], False).combine_chunks()
            self._differ(table, file, name, pc.and_(pc.or_(said, least), most), wrong)
        kinds = pc.is_in(table["kind"], value_set=pa.array(KINDS)).combine_chunks()
        unknown = ~wrong & ~_mask(kinds)
        for row in np.flatnonzero(unknown)[:_NAMED_PER_FILE].tolist():
            kind = table["kind"][row].as_py()
            self._name(table, row, file, f"kind is {kind!r}, which the join does not write")
        wrong |= unknown
        hours = self._times[requests] // _HOUR_MS
        elsewhere = ~wrong & (hours != (-1 if file.hour is None else file.hour))
        for row in np.flatnonzero(elsewhere)[:_NAMED_PER_FILE]:
            self._name(table, row, file, "lies in the partition of another hour")
        wrong |= elsewhere
        return wrong

    def _differ(
        self, table: pa.Table, file: File, name: str, expected: pa.Array, wrong: Mask
    ) -> None:
        found = table[name].combine_chunks()
        other = differs(found, expected) & ~wrong
        for row in np.flatnonzero(other)[:_NAMED_PER_FILE].tolist():
            values = found[row].as_py(), expected[row].as_py()
            self._name(table, row, file, f"{name} is {values[0]!r}; it must be {values[1]!r}")
        wrong |= other

    def _name(self, table: pa.Table, row: int, file: File, why: str) -> None:
        ids = table.select(["request_id", "position", "revision"]).slice(int(row), 1).to_pylist()[0]
        self._report.find("row", _row_name(**ids), file.name, why)

    def _without_copies(self, whole: dict[str, Floats], files: list[str]) -> dict[str, Floats]:
        """One row a version; the others are named."""
        same = np.zeros(len(whole["impression"]), dtype=bool)
        same[1:] = (whole["impression"][1:] == whole["impression"][:-1]) & (
            whole["revision"][1:] == whole["revision"][:-1]
        )
        for row in np.flatnonzero(same).tolist():
            impression, revision = int(whole["impression"][row]), int(whole["revision"][row])
            self._report.find(
                "row",
                row_name(self._source, impression, revision),
                files[int(whole["file"][row])],
                "the same version of this sample is there more than once",
            )
        return {name: column[~same] for name, column in whole.items()}


_NUMBERS = ("impression", "revision", "file", "observed", "exposed", "rate", "kind", "wrong")
_HOUR_MS = 3_600_000
_EMPTY: Floats = np.empty(0, dtype=np.float64)


def row_name(source: Source, impression: int, revision: int | None = None) -> str:
    """`r1 position 3 revision 0`."""
    request = source.accepted[int(source.impressions.request[impression])]
    return _row_name(request.request_id, int(source.impressions.position[impression]), revision)


def _row_name(request_id: str, position: int, revision: int | None) -> str:
    of = f"{request_id} position {position}"
    return of if revision is None else f"{of} revision {revision}"


def differs(found: pa.Array, expected: pa.Array) -> Mask:
    """Where two arrays of one type are not equal; null equals null. Lists by their elements."""
    if pa.types.is_list(found.type):
        return _lists_differ(found, expected)
    equal = pc.fill_null(pc.equal(found, expected), False)
    both_null = pc.and_(found.is_null(), expected.is_null())
    return _mask(pc.invert(pc.or_(equal, both_null)))


def _lists_differ(found: pa.Array, expected: pa.Array) -> Mask:
    lengths = _lengths(found)
    other: Mask = lengths != _lengths(expected)
    rows = np.flatnonzero(~other & (lengths > 0))
    elements = [array.take(pa.array(rows)).flatten() for array in (found, expected)]
    element_differs = differs(*elements)
    other[np.repeat(rows, lengths[rows])[element_differs]] = True
    return other


def _lengths(lists: pa.Array) -> Ints:
    lengths: Ints = lists.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
    return lengths.astype(np.int64)


def _mask(array: pa.Array) -> Mask:
    mask: Mask = array.to_numpy(zero_copy_only=False).astype(bool)
    return mask


def _floats(column: pa.ChunkedArray) -> Floats:
    """With NaN for null. Times and delays fit: they are below 2^53."""
    values: Floats = column.cast(pa.float64(), safe=False).to_numpy()
    return values
