"""What a run has counted, as a small table; and what in it looks wrong.

The counts are accumulators of the operators (`udfs.operators.counts`). They are those of one run: a
job that was restored counts from the restore on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from rich.table import Table

from jobs.pipeline.config import Pipeline
from schemas.events import STREAMS, Stream

#: A share above which a warning is given.
WARN_ABOVE = 0.01

#: Reasons that say nothing against a record itself, but how it relates to others. They are not
#: counted against `runtime.max_rejected`.
_BY_RELATION = (
    *("duplicate_request", "duplicate_action", "orphan_action", "unknown_action", "late_request"),
    "too_many_actions",
)

#: What the records of a stream are, to a person.
_NAMES: Mapping[Stream, str] = {"features": "requests", "actions": "actions"}

_LATE_ADVICE = (
    "A request is late when the event time of both streams has passed its deadline before it is "
    "read. Raise sources.*.out_of_orderness to how far the events are out of order. Of Kafka: look "
    "whether the timestamps of the records are those of the events"
)
_UNUSABLE_ADVICE = "The column `message` of rejected/ names the field and what was expected"


@dataclass(frozen=True)
class Counts:
    """Records, rows and actions of a run, by what became of them."""

    read: Mapping[Stream, int]
    rejected: Mapping[Stream, Mapping[str, int]]
    rows: Mapping[str, int]
    accepted: int = 0
    settled: int = 0
    impressions: int = 0
    sampled_out: int = 0
    unexposed: int = 0
    immature_dropped: int = 0
    joined: int = 0
    late: int = 0
    features_skipped: int = 0
    actions_skipped: int = 0
    actions_ignored: int = 0
    undeclared_feature_values: int = 0
    #: Whether the job began with the state of an earlier one.
    restored: bool = False

    @staticmethod
    def of(accumulators: Mapping[str, int], *, restored: bool = False) -> Counts:
        """From a job's result."""
        rejected: dict[Stream, dict[str, int]] = {stream: {} for stream in STREAMS}
        rows, single = {}, {}
        for name, count in accumulators.items():
            group, *rest = name.split("/")
            if group == "rejected" and len(rest) == 2:
                rejected[_stream(rest[0])][rest[1]] = count
            elif group == "rows" and len(rest) == 1:
                rows[rest[0]] = count
            elif name in _SINGLE:
                single[name] = count
        read = {stream: accumulators.get(f"{stream}_read", 0) for stream in STREAMS}
        return Counts(read, rejected, rows, **single, restored=restored)

    def unusable(self, stream: Stream) -> int:
        """Records that were rejected for what they are."""
        return sum(n for why, n in self.rejected[stream].items() if why not in _BY_RELATION)

    @property
    def late_requests(self) -> int:
        """Requests that were rejected because they came after their deadline."""
        return self.rejected["features"].get("late_request", 0)


_SINGLE = {
    *("accepted", "settled", "impressions", "sampled_out", "unexposed", "immature_dropped"),
    *("joined", "late", "actions_ignored", "undeclared_feature_values"),
    *("features_skipped", "actions_skipped"),
}


@dataclass(frozen=True)
class Judgement:
    """`failures` make a bounded run fail; `warnings` are said only. One line each."""

    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What a run has counted, for a person, and what is wrong with it."""

    table: Table
    judgement: Judgement


def of_join(pipeline: Pipeline, accumulators: Mapping[str, int], restored: bool) -> Report:
    """The report of a join with these accumulators."""
    counts, runtime = Counts.of(accumulators, restored=restored), pipeline.runtime
    judgement = judge(
        counts, max_late_requests=runtime.max_late_requests, max_rejected=runtime.max_rejected
    )
    return Report(table(counts), judgement)


def judge(counts: Counts, *, max_late_requests: float, max_rejected: float) -> Judgement:
    """What is wrong, or looks so. The bounds are shares, see `config.RuntimeSection`.

    Of a restored run nothing is judged, for it rejects records that an earlier one has read.
    """
    found = Judgement()
    if counts.restored:
        return found
    for stream in STREAMS:
        read, unusable = counts.read[stream], counts.unusable(stream)
        all_rejected = sum(counts.rejected[stream].values())
        if not read:
            found.warnings.append(f"no {_NAMES[stream]} were read")
        elif all_rejected >= read:
            found.failures.append(
                f"every one of the {read:,} {_NAMES[stream]} that were read was rejected "
                f"({_reasons(counts, stream)}). {_UNUSABLE_ADVICE}"
            )
        elif unusable > WARN_ABOVE * read:
            line = (
                f"{_share(unusable, read)} {_NAMES[stream]} could not be used "
                f"({_reasons(counts, stream, _BY_RELATION)}). {_UNUSABLE_ADVICE}"
            )
            over = unusable > max_rejected * read
            (found.failures if over else found.warnings).append(line)
    late, read = counts.late_requests, counts.read["features"]
    if read and late > WARN_ABOVE * read:
        line = f"{_share(late, read)} requests came too late (late_request). {_LATE_ADVICE}"
        over = late > max_late_requests * read
        (found.failures if over else found.warnings).append(line)
    if (
        counts.accepted
        and counts.read["actions"] > counts.unusable("actions")
        and not (counts.joined or counts.late)
    ):
        found.warnings.append(
            "no action joined any request: compare the ids and times of both streams "
            f"({_reasons(counts, 'actions') or 'none was rejected'})"
        )
    return found


def table(counts: Counts) -> Table:
    """The counts, aligned; those that are 0 and usually are, are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column()
    grid.add_column(justify="right")
    for group, name, count in _lines(counts):
        grid.add_row(group, name, f"{count:,}")
    return grid


def _lines(counts: Counts) -> Iterator[tuple[str, str, int]]:
    features, actions = counts.read["features"], counts.read["actions"]
    yield "requests", "read", features
    if counts.features_skipped:
        yield "", "skipped", counts.features_skipped
    yield "", "accepted", counts.accepted
    yield "", "settled", counts.settled
    yield from _rejected(counts, "features")
    yield "impressions", "settled", counts.impressions
    for name, count in (
        ("sampled out", counts.sampled_out),
        ("not exposed", counts.unexposed),
        ("immature, dropped", counts.immature_dropped),
    ):
        if count:
            yield "", name, count
    written = [(kind, count) for kind, count in counts.rows.items() if count]
    for i, (kind, count) in enumerate(written or [("none", 0)]):
        yield "" if i else "rows", kind, count
    yield "actions", "read", actions
    if counts.actions_skipped:
        yield "", "skipped", counts.actions_skipped
    yield "", "joined", counts.joined
    yield "", "late", counts.late
    if counts.actions_ignored:
        yield "", "ignored", counts.actions_ignored
    yield from _rejected(counts, "actions")
    if counts.undeclared_feature_values:
        yield "features", "not declared", counts.undeclared_feature_values


def _rejected(counts: Counts, stream: Stream) -> Iterator[tuple[str, str, int]]:
    by_reason = counts.rejected[stream]
    yield "", "rejected", sum(by_reason.values())
    for reason, count in sorted(by_reason.items(), key=lambda one: (-one[1], one[0])):
        if count:
            yield "", f"  {reason}", count


def _reasons(counts: Counts, stream: Stream, but: Collection[str] = ()) -> str:
    ordered = sorted(counts.rejected[stream].items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{why} {count:,}" for why, count in ordered if count and why not in but)


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({part / whole:.1%})"


def _stream(name: str) -> Stream:
    return "features" if name == "features" else "actions"
