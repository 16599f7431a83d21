"""How long to wait? The emission policies side by side, on a generated day whose truth is known.

    python -m tools.compare_policies --out DIR [--requests 5000 --hours 24 --seed 1]
                                    [--markdown docs/emission-policies.md]

Makes the day (`tools.generate`), runs the joining job over it once for each policy and window, and
compares what was written with what the users did in the end, see `measure`. `--markdown` puts the
tables between the markers `<!-- policies:begin -->` and `<!-- policies:end -->` of a file. A run of
the job takes 10 to 20 seconds for some thousand requests on an idle machine, so the 12 runs take 3
to 4 minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from configuration import command_line
from jobs.pipeline.config import ConfigError, Pipeline, Policy, load
from schemas import generations
from tools.generate.model import Traffic
from tools.generate.traffic import generate
from tools.summary.show import readable_ms

#: Whose labels are compared, and the one whose window is varied.
KINDS = ("click", "purchase")
VARIED = "purchase"
WINDOWS = ("30min", "3h", "6h")
#: d, for the policies that ask for it.
FIRST_AFTER = "10min"

#: Of the tables, whatever the width of the console.
WIDTH = 120

BEGIN, END = "<!-- policies:begin -->", "<!-- policies:end -->"

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class CompareError(Exception):
    """One line for a person: why there is nothing to compare."""


@dataclass(frozen=True)
class Timing:
    """What turns `observed_ms` into an age, ms: rows of before the deadline come out S + bound
    later, rows of the deadline S + L + bound.
    """

    skew: int
    lateness: int
    bound: int

    @classmethod
    def of(cls, pipeline: Pipeline) -> Timing:
        """The bounds of a pipeline, in ms."""
        bound = max(int(named.source.out_of_orderness) for named in pipeline.sources.each)
        return cls(int(pipeline.join.clock_skew), int(pipeline.join.allowed_lateness), bound)


@dataclass(frozen=True)
class Measured:
    """One kind of action under one policy and window, see `measure`. Ages: median and 95th
    percentile in ms, None where there is nothing to take them of.
    """

    rows: int
    impressions: int
    acting: int
    acting_in_window: int
    false_negatives: int
    false_negatives_in_window: int
    wrong: int
    wrong_in_window: int
    first_age: tuple[float | None, float | None]
    right_age: tuple[float | None, float | None]


def measure(
    samples: pa.Table, truth: pa.Table, kind: str, window_ms: int, timing: Timing
) -> Measured:
    """Compare what was written with what the users did.

    `truth`: an impression a row, columns `request_id`, `position` and `true_<kind>_ms` (the delay
    of the action, null: never). `samples`: columns `request_id`, `position`, `revision`, `kind`,
    `observed_ms` (never null) and `delay_<kind>_ms`. What only one of them has is left out.

    * A row says "no" if it has no delay. It is a false negative if in truth there is an action, at
      whatever time, or (in window) at most `window_ms` after the request.
    * An impression with such an action is wrong if its last row says "no".
    * The age of a row is the event time that the stream has reached when it comes out, less that
      of the request: `observed_ms` + S + out_of_orderness, and + L for a final row. `first_age` is
      that of the first row of each impression, `right_age` that of the first row that says "yes",
      of the impressions that act in the window and have one.
    """
    impression = ["request_id", "position"]
    rows = samples.join(truth, keys=impression, join_type="inner")
    rows = rows.sort_by([(name, "ascending") for name in (*impression, "revision")])
    if not rows.num_rows:
        raise CompareError("there is no row of an impression that the truth knows")
    requests = rows["request_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    positions = rows["position"].to_numpy()
    another = (np.diff(requests) != 0) | (np.diff(positions) != 0)
    first, last = np.append(True, another), np.append(another, True)
    which = np.cumsum(first)

    true_delay = pc.fill_null(rows[f"true_{kind}_ms"], _NEVER).to_numpy()
    acts, acts_in_window = true_delay < _NEVER, true_delay <= window_ms
    says_no = rows[f"delay_{kind}_ms"].is_null().to_numpy()

    final = pc.equal(rows["kind"], "final").to_numpy()
    age = rows["observed_ms"].to_numpy() + timing.skew + timing.bound + timing.lateness * final
    right = np.flatnonzero(acts_in_window & ~says_no)
    _, first_right = np.unique(which[right], return_index=True)
    return Measured(
        rows=rows.num_rows,
        impressions=_count(first),
        acting=_count(acts & last),
        acting_in_window=_count(acts_in_window & last),
        false_negatives=_count(acts & says_no),
        false_negatives_in_window=_count(acts_in_window & says_no),
        wrong=_count(acts & says_no & last),
        wrong_in_window=_count(acts_in_window & says_no & last),
        first_age=_median_and_p95(age[first]),
        right_age=_median_and_p95(age[right[first_right]]),
    )


_NEVER = 2**62


def _count(mask: Bools) -> int:
    return int(np.count_nonzero(mask))


def _median_and_p95(values: Ints) -> tuple[float | None, float | None]:
    if not len(values):
        return (None, None)
    median, p95 = np.quantile(values, (0.5, 0.95))
    return (float(median), float(p95))


# -- the day, and the runs over it -----------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One run of the job: a policy, and the window of the kind that is `VARIED`."""

    policy: Policy
    window: str
    pipeline: Pipeline
    overrides: tuple[str, ...]

    @property
    def output(self) -> Path:
        """The folder of its rows."""
        return Path(self.pipeline.output.path)


def plan(
    config: Path, runs: Path, policies: Sequence[Policy], windows: Sequence[str], first_after: str
) -> list[Run]:
    """All runs, checked before the first is started. Raises ConfigError."""
    planned = []
    for window in windows:
        for policy in policies:
            overrides = [
                f"join.policy={policy}",
                f"actions.{VARIED}.window={window}",
                f"output.path={runs / f'{policy}-{window}'}",
            ]
            if policy in ("es_dfm", "defer"):
                overrides.append(f"emission.first_emit_after={first_after}")
            pipeline = load(config, overrides)
            planned.append(Run(policy, window, pipeline, tuple(overrides)))
    return planned


def join(config: Path, run: Run) -> None:
    """Run the job in a process of its own. Raises CompareError when it fails."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.join_samples", "--config", str(config)]
        + [f"--set={override}" for override in run.overrides],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise CompareError(f"the run of {run.policy}, {run.window} failed:\n{said}")


def whole_truth(day: Path, end: int, longest_ms: int) -> pa.Table:
    """What `measure` asks of the impressions whose longest window is over well before the end of
    the log, so that no row of theirs is cut short.
    """
    table = pq.read_table(day / "truth" / "impressions.parquet")
    table = table.filter(pc.less_equal(table["event_time"], end - longest_ms - _MARGIN_MS))
    delays = [f"delay_{kind}_ms" for kind in KINDS]
    names = ["request_id", "position", *(f"true_{kind}_ms" for kind in KINDS)]
    return table.select(["request_id", "position", *delays]).rename_columns(names)


#: The last events of both logs are some time before their end.
_MARGIN_MS = 10 * 60_000


def measure_run(run: Run, truth: pa.Table) -> dict[str, Measured]:
    """By kind, of `KINDS`. Raises CompareError when nothing was written."""
    files = generations.files(run.output, "samples")
    if not files:
        raise CompareError(f"the run of {run.policy}, {run.window} wrote no samples")
    columns = ["request_id", "position", "revision", "kind", "observed_ms"]
    columns += [f"delay_{kind}_ms" for kind in KINDS]
    samples = ds.dataset([str(file) for file in files], format="parquet").to_table(columns=columns)
    windows, timing = run.pipeline.rules.windows, Timing.of(run.pipeline)
    return {kind: measure(samples, truth, kind, windows[kind], timing) for kind in KINDS}


# -- tables ----------------------------------------------------------------------------------------

_HEADS = (
    *("policy", "rows", "an impr.", "first row", "95 %"),
    *("false neg.", "in window", "wrong", "in window", "right row", "95 %"),
)


def cells(run: Run, found: Measured) -> list[str]:
    """What `_HEADS` names."""
    ages = (*found.first_age, *found.right_age)
    first, first_95, right, right_95 = (readable_ms(age) for age in ages)
    return [
        run.policy,
        f"{found.rows:,}",
        f"{found.rows / found.impressions:.3f}",
        first,
        first_95,
        f"{found.false_negatives:,}",
        f"{found.false_negatives_in_window:,}",
        _share(found.wrong, found.acting),
        _share(found.wrong_in_window, found.acting_in_window),
        right,
        right_95,
    ]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


Results = Mapping[str, Sequence[tuple[Run, Measured]]]


def _by_window(results: Sequence[tuple[Run, Measured]]) -> dict[str, list[tuple[Run, Measured]]]:
    grouped: dict[str, list[tuple[Run, Measured]]] = {}
    for run, found in results:
        grouped.setdefault(run.window, []).append((run, found))
    return grouped


def _caption(kind: str, window: str, run: Run, found: Measured) -> str:
    own = readable_ms(run.pipeline.rules.windows[kind])
    return (
        f"{kind}: {VARIED} window {window}, {kind} window {own}; of {found.impressions:,} "
        f"impressions {found.acting:,} act, {found.acting_in_window:,} in the window"
    )


def print_tables(results: Results, console: Console) -> None:
    """One table a kind and window."""
    for kind, of_kind in results.items():
        for window, measured in _by_window(of_kind).items():
            console.print(f"\n{_caption(kind, window, *measured[0])}", style="bold", soft_wrap=True)
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
            for n, head in enumerate(_HEADS):
                table.add_column(head, justify="right" if n else "left", no_wrap=True)
            for run, found in measured:
                table.add_row(*cells(run, found))
            console.print(table)


def markdown(results: Results, about: str) -> str:
    """The same tables, for a document."""
    lines = [about]
    for kind, of_kind in results.items():
        for window, measured in _by_window(of_kind).items():
            lines += ["", f"**{_caption(kind, window, *measured[0])}**", ""]
            lines.append("| " + " | ".join(_HEADS) + " |")
            lines.append("|---|" + "---:|" * (len(_HEADS) - 1))
            lines += (f"| {' | '.join(cells(run, found))} |" for run, found in measured)
    return "\n".join(lines)


def between_markers(path: Path) -> tuple[str, str]:
    """What is before `BEGIN` and after `END` in a file. Raises CompareError without them."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise CompareError(f"{path} has no lines {BEGIN} and {END}; add them where the tables go")
    return before, after


def put_between_markers(path: Path, text: str) -> None:
    """Replace what is between `BEGIN` and `END` in a file. Raises CompareError without them."""
    before, after = between_markers(path)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


# -- the command -----------------------------------------------------------------------------------


def compare(
    traffic: Traffic,
    out: Path,
    policies: Sequence[Policy],
    windows: Sequence[str],
    first_after: str,
    console: Console,
) -> dict[str, list[tuple[Run, Measured]]]:
    """Make the day, run all runs, and measure. Raises CompareError, ConfigError or OSError."""
    if out.exists() and any(out.iterdir()):
        raise CompareError(f"{out} is not empty: give a new directory")
    out = out.resolve()
    config = out / "day" / "pipeline.toml"
    results: dict[str, list[tuple[Run, Measured]]] = {kind: [] for kind in KINDS}
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("generate", total=traffic.requests)
        generate(traffic, out / "day", lambda n: bar.advance(task, n))
        runs = plan(config, out / "runs", policies, windows, first_after)
        longest = max(run.pipeline.rules.longest_window for run in runs)
        truth = whole_truth(out / "day", traffic.end, longest)
        if not truth.num_rows:
            raise CompareError("the day is shorter than the longest window: give more --hours")
        task = bar.add_task("", total=len(runs))
        for run in runs:
            bar.update(task, description=f"join: {run.policy}, {run.window}")
            join(config, run)
            for kind, found in measure_run(run, truth).items():
                results[kind].append((run, found))
            bar.advance(task)
    return results


#: Defaults of options, which are lists.
_POLICIES, _WINDOWS = list(get_args(Policy)), list(WINDOWS)


def _policies(names: Any) -> Any:
    # Python 3.10 calls list[str] a class, at which Typer stumbles: so Any, of a list of names.
    for name in names:
        if name not in get_args(Policy):
            raise typer.BadParameter(f"{name!r} is none of {', '.join(get_args(Policy))}")
    return names


def policies(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new or empty folder.")],
    requests: Annotated[int, typer.Option(help="Number of requests of the day.")] = 5_000,
    hours: Annotated[float, typer.Option(help="Length of the day, in hours.")] = 24.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same day.")] = 1,
    policy: Annotated[
        list[str], typer.Option(callback=_policies, help="A policy to compare. Repeatable.")
    ] = _POLICIES,
    window: Annotated[
        list[str],
        typer.Option(metavar="DURATION", help=f"A window of {VARIED}. Repeatable."),
    ] = _WINDOWS,
    first_after: Annotated[
        str, typer.Option(metavar="DURATION", help="first_emit_after of es_dfm and defer.")
    ] = FIRST_AFTER,
    markdown_file: Annotated[
        Path | None,
        typer.Option(
            "--markdown",
            metavar="FILE",
            help="Also write the tables into this page, between its markers.",
        ),
    ] = None,
) -> int:
    """Compare the emission policies on a generated day whose truth is known.

    Exit codes: 0 compared, 1 a run of the job failed or nothing could be compared, 2 the arguments
    are wrong.
    """
    errors = Console(stderr=True, highlight=False)
    try:
        if markdown_file is not None:
            # found out now, and not after some minutes
            between_markers(markdown_file)
        traffic = Traffic(requests, hours=hours, seed=seed)
        count = len(policy) * len(window)
        errors.print(f"{count} runs of the job, 10 to 20 s each on an idle machine")
        results = compare(traffic, out, cast("list[Policy]", policy), window, first_after, errors)
    except CompareError as error:
        errors.print(f"compare: {error}", markup=False, soft_wrap=True)
        return 1
    except (ConfigError, OSError, ValueError) as error:
        errors.print(f"compare: {error}", markup=False, soft_wrap=True)
        return 2
    about = (
        f"{traffic.requests:,} requests of {traffic.items} items over {traffic.hours:g} h, seed "
        f"{traffic.seed}; d = {first_after} for es_dfm and defer."
    )
    console = Console(highlight=False, width=WIDTH)
    console.print(f"\n{about}", soft_wrap=True)
    print_tables(results, console)
    if markdown_file is not None:
        put_between_markers(markdown_file, markdown(results, about))
        errors.print(f"the tables are in {markdown_file}", markup=False, soft_wrap=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return command_line.run(policies, argv, "python -m tools.compare_policies")
