"""Writes corrections for samples whose actions came too late: docs/corrections.md.

    python -m tools.correct_samples --config FILE [--set a.b=value ...] [--out DIR]

Reads `samples/` and `late_actions/` of the pipeline's output, and writes `corrections/dt=…/hr=…/`
beside them, in the layout of the samples. Every run works from all late actions there are, and
replaces what an earlier one wrote; `samples/` is never touched. The corrections of a partition that
a generation holds (`schemas.generations`) are in that generation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from configuration.command_line import Overrides, PipelineFile, run
from corrections.anew import NegativeRate
from corrections.apply import corrections
from corrections.late_actions import Fate
from corrections.result import Corrections
from jobs.pipeline.config import ConfigError, Pipeline, load
from schemas import generations
from schemas.samples import LATE_ACTIONS
from schemas.samples import samples as sample_layout

#: The one file of a partition, so that a new run replaces it at one stroke.
FILE = "corrections.parquet"
_WRITTEN = f"dt=*/hr=*/{FILE}"

#: Of the table, whatever the width of the console.
WIDTH = 100

_REASONS: Mapping[Fate, str] = {
    "no_features": "the sample had been left out, and the action carries no features: "
    "set output.late_features = true",
    "not_written": "the sample is not there yet, or not any more",
    "order_unknown": "label 'last': whether it is the later one is not known",
    "no_value": "it has no value, which its label needs",
    "unknown_kind": "the kind is not configured any more",
}


@dataclass
class Report:
    """What was written: rows and partitions, and of the late actions what `Corrections` says."""

    rows: int = 0
    anew: int = 0
    partitions: int = 0
    fates: Counter[tuple[str, Fate]] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, made: Corrections) -> None:
        """Add what became of one partition."""
        self.rows += made.rows.num_rows
        self.anew += made.anew
        self.partitions += made.rows.num_rows > 0
        self.fates += made.fates
        self.labels += made.labels


def correct(pipeline: Pipeline, out: Path | None = None, console: Console | None = None) -> Report:
    """Write the corrections of an output under `out` (default: `corrections` in it).

    `console`: where progress is shown. Raises ConfigError for an output that is not a local folder,
    OSError, pyarrow.ArrowInvalid and ValueError for what cannot be read or written.
    """
    root = _local(pipeline.output.path)
    of = generations.current(root)
    late = generations.partitions(root, "late_actions", of)
    samples = generations.partitions(root, "samples", of)
    report, written = Report(), set[Path]()
    with Progress(console=console, transient=True, disable=console is None) as bar:
        for name, files in bar.track(late.items(), description="hours with late actions"):
            made = _of_partition(pipeline, files, samples.get(name, []))
            report.add(made)
            if made.rows.num_rows:
                place = root / of.folder(name) / "corrections" if out is None else out
                _write(made.rows, place / name / FILE, pipeline.output.compression)
                written.add(place / name / FILE)
    before = generations.files(root, "corrections", of) if out is None else out.glob(_WRITTEN)
    for stale in {path for path in before if path.name == FILE} - written:
        stale.unlink()
    return report


def _local(path: str) -> Path:
    url = urlsplit(path)
    if "://" not in path or (url.scheme == "file" and not url.netloc):
        root = Path(url2pathname(url.path) if "://" in path else path)
        written = ("samples", "late_actions", generations.POINTER)
        if any((root / name).exists() for name in written):
            return root
        raise ConfigError(f"output.path: nothing was written to {path} yet; run the job first")
    raise ConfigError(f"output.path: {path} is not a local folder; mount it, and set output.path")


def _of_partition(
    pipeline: Pipeline, late_files: Sequence[Path], sample_files: Sequence[Path]
) -> Corrections:
    """Late actions lie in the hour of their request, so nothing else need be read."""
    layout = sample_layout(pipeline.schema, pipeline.kinds)
    late = ds.dataset(_paths(late_files), schema=LATE_ACTIONS, format="parquet").to_table()
    samples = layout.empty_table()
    if sample_files:
        # few rows of many; ids are 64 bits, so it may be some more than the ones that are meant
        named = ds.field("sample_id").isin(late["sample_id"].combine_chunks())
        dataset = ds.dataset(_paths(sample_files), schema=layout, format="parquet")
        samples = dataset.to_table(filter=named)
    exposure = pipeline.exposure
    drops = exposure is not None and exposure.unexposed == "drop"
    made = corrections(
        samples,
        late,
        pipeline.kinds,
        exposure=None if exposure is None else exposure.action,
        anew=drops or not pipeline.negative_sampling.off,
        negative_rate=_negative_rate(pipeline),
    )
    # whatever the files of the sink were called
    made.rows = made.rows.sort_by(
        [(n, "ascending") for n in ("event_time", "request_id", "position")]
    )
    return made


def _paths(files: Sequence[Path]) -> list[str]:
    return [str(file) for file in files]


def _negative_rate(pipeline: Pipeline) -> NegativeRate:
    sampling = pipeline.negative_sampling

    def rate(sample_id: int, features: Mapping[str, Any]) -> float | None:
        values = {name: features.get(name) for name in sampling.features}
        found = sampling.rate_of(values, exposed=True)
        return found if sampling.keeps(sample_id, found) else None

    return rate


def _write(rows: pa.Table, path: Path, compression: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    codec = "NONE" if compression == "UNCOMPRESSED" else compression
    pq.write_table(rows, unfinished, compression=codec)
    unfinished.replace(path)


# -- for a person ----------------------------------------------------------------------------------


def print_report(report: Report, kinds: Sequence[str], console: Console) -> None:
    """A table by kind of action, and the reasons. In numbers of actions, but for the last column:
    how many labels have changed.
    """
    bad = [fate for fate in get_args(Fate) if fate in _REASONS]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("late actions", no_wrap=True)
    heads = ("all", "after window", "no change", "corrected", "made anew", "not corr.")
    for head in (*heads, "labels"):
        table.add_column(head, justify="right", no_wrap=True)
    fates = report.fates
    for kind in dict.fromkeys([*kinds, *sorted({k for k, _ in fates})]):
        numbers = (
            sum(n for (k, _), n in fates.items() if k == kind),
            *(fates[kind, f] for f in _SHOWN),
            sum(fates[kind, f] for f in bad),
            report.labels[kind],
        )
        table.add_row(kind, *(f"{n:,}" for n in numbers))
    console.print(table)
    for fate in bad:
        count = sum(n for (_, f), n in fates.items() if f == fate)
        if count:
            console.print(f"not correctable, {count:,}: {_REASONS[fate]}", soft_wrap=True)
    console.print(
        f"{report.rows:,} corrections in {report.partitions:,} partitions, "
        f"{report.anew:,} of them samples made anew"
    )


_SHOWN: tuple[Fate, ...] = ("outside_window", "no_change", "corrected", "made_anew")


def write(
    config: PipelineFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to write (default: corrections/ in the output)."),
    ] = None,
) -> int:
    """Write corrections for samples whose actions came too late.

    Reads samples/ and late_actions/ of the pipeline's output (docs/corrections.md). Exit codes:
    0 written, 2 something cannot be read or written.
    """
    errors = Console(stderr=True, highlight=False)
    try:
        pipeline = load(config, overrides or ())
        report = correct(pipeline, out, errors)
    except (ConfigError, OSError, ValueError) as error:
        errors.print(f"correct: {error}", markup=False, soft_wrap=True)
        return 2
    print_report(
        report, [kind.name for kind in pipeline.kinds], Console(highlight=False, width=WIDTH)
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run(write, argv, "python -m tools.correct_samples")
