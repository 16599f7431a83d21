"""Is every record accounted for? Works it out again from the sources and from what was written.

    python -m tools.audit --config FILE [--set a.b=value ...] [--show N]

Reads the sources and the output of the joining job, prints what came in, where it went, and what is
left over, and names it (docs/audit.md). Exit codes: 0 everything is accounted for, 1 it is not, 2
the configuration is wrong, or something cannot be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress as ProgressBar

from configuration.command_line import Overrides, PipelineFile, run
from jobs.pipeline.config import ConfigError, Pipeline, load
from schemas.events import Stream
from schemas.formats.declared import RegistryError
from tools.audit import report as audit_report
from tools.audit.actions import Assignment, Requests, take_late
from tools.audit.eras import eras_of
from tools.audit.expected import Expected
from tools.audit.judges import AnyOf, Judge
from tools.audit.labels import LabelCheck
from tools.audit.limits import check_limits
from tools.audit.observed import check_observed
from tools.audit.output import Output
from tools.audit.progress import Progress, progress_of
from tools.audit.reassign import reassign
from tools.audit.records import Rejected, Source, read_source, request_twins
from tools.audit.report import Report
from tools.audit.samples import Mask, SampleReader
from tools.audit.versions import VersionCheck

CLOSES, DOES_NOT, WRONG = 0, 1, 2

#: Told what is being done, how far it is, and how much there is (None: not known).
Told = Callable[[str, int, int | None], None]


def audit(pipeline: Pipeline, told: Told = lambda *_: None) -> Report:
    """The accounts of a run. Raises ConfigError for what cannot be read."""
    report = Report()
    accounts = [report.account(title) for title in ("requests", "impressions", "actions")]
    requests_account, impressions_account, actions_account = accounts
    output = Output(pipeline.output.path, pipeline.object_storage)
    eras = eras_of(pipeline, report.notes)
    read: Counter[str] = Counter()

    def more(stream: str, records: int) -> None:
        read[stream] += records
        told(f"reading {stream}", read[stream], None)

    of_actions = [pipeline.seen_from(named) for named in pipeline.sources.of("actions")]
    mapped = any(seen.mappings.actions is not None for seen in of_actions)
    several: tuple[Stream, ...] = ("actions",) if mapped else ()
    rejected = Rejected(output, report, several)
    source = read_source(eras, rejected, report, more)
    request_twins(source, eras, report)
    requests = Requests(eras, source)
    take_late(eras, source, requests, output, report)
    reader = SampleReader(eras, source, report)
    rows_account = report.account("rows in samples/")
    rows = reader.read(output, rows_account, lambda done, of: told("comparing samples", done, of))
    late_of = [a.late_of for a in source.actions if a.late_of is not None]
    progress = progress_of(eras, source, rows, late_of)

    unseen = _unseen(source, progress, report)
    by_request = np.array([progress.settled(r) for r in source.accepted], dtype=bool)
    settled: Mask = by_request[source.impressions.request]
    assignment = Assignment(eras, source, requests, progress)
    assignment.assign(report)
    judges = [Expected(p, source, rows, assignment, progress, settled) for p in eras.pipelines]
    expected: Judge = AnyOf(judges) if eras.several else judges[0]
    untold = reassign(assignment, expected)
    if untold:
        report.notes.append(
            f"{len(untold)} impressions: cannot tell which of several requests must hold their"
            " actions, since requests came beyond the bounds. They count as right."
        )
    check_limits(eras, source, requests, assignment, report)
    labels = LabelCheck(eras, source, rows, assignment, expected, settled, untold)
    labels.check(report)
    check_observed(eras, source, rows, progress, report)
    versions = VersionCheck(eras, source, rows, expected, settled, untold)
    versions.check(impressions_account, report)

    _count_requests(requests_account, source, unseen, by_request)
    actions_account.came_in = source.read["actions"]
    actions_account.went = source.bad["actions"] + assignment.went
    actions_account.went["pending"] += unseen["actions"]
    _count_held(actions_account.went, assignment, labels, settled)
    rows_account.went.update(rows.right)
    for account in report.accounts:
        account.went = +account.went  # without those that are 0
    return report


def _unseen(source: Source, progress: Progress, report: Report) -> Counter[str]:
    """Bad records that are not in `rejected/`: by stream, those that may not have been read yet."""
    pending: Counter[str] = Counter()
    for stream, origin, reason in source.unseen:
        if progress.was_read(stream, origin):
            why = f"a bad record ({reason}) that is not in rejected/"
            report.find("record", stream, audit_report.place(origin), why)
        else:
            pending[stream] += 1
    return pending


def _count_requests(
    account: audit_report.Account, source: Source, unseen: Counter[str], settled: Mask
) -> None:
    account.came_in = source.read["features"]
    account.went = Counter(source.bad["features"])
    account.went["pending"] += unseen["features"]
    account.went.update(f"rejected: {request.reason}" for request in source.rejected)
    for request, is_settled in zip(source.accepted, settled.tolist(), strict=True):
        if not request.missing:
            account.went["settled" if is_settled else "pending"] += 1


def _count_held(
    went: Counter[str], assignment: Assignment, labels: LabelCheck, settled: Mask
) -> None:
    for (_, impression), actions in assignment.cells.items():
        for action in actions:
            if id(action) in labels.unfit:
                continue
            held = not settled[impression] or id(action) in labels.pending
            went["pending" if held else "joined"] += 1


def check(
    config: PipelineFile,
    overrides: Overrides = None,
    show: Annotated[int, typer.Option(metavar="N", min=0, help="How many findings to list.")] = 20,
) -> int:
    """Check that every record of a run is accounted for.

    Reads the sources and the output of the joining job, and works out again what must have become
    of every record (docs/audit.md). Exit codes: 0 everything is accounted for, 1 it is not (the
    findings name it), 2 the configuration is wrong or something cannot be read.
    """
    console = Console(stderr=True, highlight=False)
    try:
        pipeline = load(config, overrides or ())
        with ProgressBar(console=console, transient=True) as bar:
            report = audit(pipeline, _shown_by(bar))
    except (ConfigError, RegistryError) as error:
        console.print(f"audit: {error}", markup=False, soft_wrap=True)
        return WRONG
    out = Console(highlight=False)
    audit_report.show(report, out, show, running=not pipeline.bounded)
    return CLOSES if report.closes else DOES_NOT


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run(check, argv, "python -m tools.audit")


def _shown_by(bar: ProgressBar) -> Told:
    tasks: dict[str, int] = {}

    def told(what: str, done: int, of: int | None) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=of)
        bar.update(tasks[what], completed=done, total=of)  # type: ignore[arg-type]

    return told
