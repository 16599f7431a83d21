"""What a run wrote, for a person: ``python -m tools.summary OUTPUT_DIR``.

`summarise` reads the Parquet (docs/sample-format.md) and nothing else, so it works for any output,
also of a job that still runs; `print_summary` puts it on a console in at most `WIDTH` columns.
Names that start with `.` or `_` are not data.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from configuration.command_line import run
from corrections.apply import VERSION, latest

#: Columns of text that the summary needs at most, whatever the width of the console.
WIDTH = 100
#: How long an id may be in the rows that are shown; the rest is cut off.
ID_WIDTH = 16
SHOWN_ROWS = 6


@dataclass(frozen=True)
class Part:
    """`samples`, `late_actions` or `rejected`. A partition is complete when it has `_SUCCESS`."""

    name: str
    rows: int = 0
    files: int = 0
    bytes: int = 0
    complete: int = 0
    incomplete: int = 0


@dataclass(frozen=True)
class KindSummary:
    """The labels of one action kind; positives + negatives + immature are its rows.

    `positives`: rows with an action. Of the rows without one, `negatives` are those whose window
    had closed, `immature` the others. `actions`: how many were joined, where the label counts them.
    Delays are of the first action of a row, in milliseconds, interpolated between neighbours; None
    without a positive.
    """

    kind: str
    positives: int
    negatives: int
    immature: int
    actions: int | None
    delay_median_ms: float | None
    delay_p95_ms: float | None

    @property
    def rate(self) -> float | None:
        """Positives as a share of all rows; None without rows."""
        rows = self.positives + self.negatives + self.immature
        return self.positives / rows if rows else None


@dataclass(frozen=True)
class Summary:
    """What lies under an output folder.

    `requests`: those that have rows. `repeated`: rows that a later version of their sample follows;
    `kinds` is about the last versions. `late` by (action, reason), `rejected` by (stream, reason),
    the most frequent first. `rows`: a few samples, the narrow columns only.
    """

    output: Path
    requests: int
    samples: Part
    late_actions: Part
    rejected_records: Part
    kinds: tuple[KindSummary, ...] = ()
    late: Mapping[tuple[str, str], int] = field(default_factory=dict)
    rejected: Mapping[tuple[str, str], int] = field(default_factory=dict)
    rows: tuple[Mapping[str, Any], ...] = ()
    repeated: int = 0

    @property
    def impressions(self) -> int:
        """One a row, but for those that are repeated."""
        return self.samples.rows - self.repeated

    def rejected_of(self, stream: str) -> int:
        """Records of `features` or `actions` that were rejected."""
        return sum(n for (of, _), n in self.rejected.items() if of == stream)

    @property
    def actions(self) -> tuple[int, bool]:
        """Actions that are somewhere in the output, and whether these are all there were.

        Where a label does not count (it says whether, or a sum), a positive stands for at least one
        action.
        """
        joined = sum(k.positives if k.actions is None else k.actions for k in self.kinds)
        exact = all(k.actions is not None or k.positives == 0 for k in self.kinds)
        return joined + self.late_actions.rows + self.rejected_of("actions"), exact


# -- reading ---------------------------------------------------------------------------------------


def summarise(output: Path) -> Summary:
    """Read what a job has written under `output`; a folder that is not there is an empty one.

    Raises OSError or pyarrow.ArrowInvalid for what cannot be read.
    """
    samples, samples_part = _open(output, "samples")
    late, late_part = _open(output, "late_actions")
    rejected, rejected_part = _open(output, "rejected")
    revised = samples is not None and _is_revised(samples)
    kinds = _kinds(samples, revised=revised) if samples is not None else ()
    repeated = 0
    if samples is not None and revised:
        repeated = samples_part.rows - latest(samples.to_table(columns=list(VERSION))).num_rows
    return Summary(
        output=output,
        requests=_requests(samples) if samples is not None else 0,
        samples=samples_part,
        late_actions=late_part,
        rejected_records=rejected_part,
        kinds=kinds,
        late=_counts(late, "action", "reason") if late is not None else {},
        rejected=_counts(rejected, "stream", "reason") if rejected is not None else {},
        rows=_some_rows(samples) if samples is not None else (),
        repeated=repeated,
    )


def _data_files(folder: Path) -> Iterator[Path]:
    """In the order of their paths."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "_")):
            continue
        if path.is_dir():
            yield from _data_files(path)
        else:
            yield path


def _open(output: Path, name: str) -> tuple[ds.Dataset | None, Part]:
    """The files as one dataset, None if there are none, and how many of everything there is."""
    folder = output / name
    files = list(_data_files(folder))
    partitions = {path.parent for path in files}
    complete = sum((partition / "_SUCCESS").exists() for partition in partitions)
    dataset = ds.dataset([str(path) for path in files], format="parquet") if files else None
    if dataset is not None:
        # files of before an action or a feature was added do not have its columns
        fragments = list(dataset.get_fragments())
        schemas = list(dict.fromkeys(f.physical_schema for f in fragments))
        if len(schemas) > 1:
            dataset = dataset.replace_schema(pa.unify_schemas(schemas))
    return dataset, Part(
        name=name,
        rows=dataset.count_rows() if dataset is not None else 0,
        files=len(files),
        bytes=sum(path.stat().st_size for path in files),
        complete=complete,
        incomplete=len(partitions) - complete,
    )


def _requests(samples: ds.Dataset) -> int:
    column = samples.to_table(columns=["request_id"])["request_id"]
    return int(pc.count_distinct(column).as_py())


def _kind_names(schema: pa.Schema) -> list[str]:
    """A kind has its three columns; a feature may be called label_something too."""
    names = set(schema.names)
    labels = (re.fullmatch(r"label_(\w+)", name) for name in schema.names)
    kinds = [match[1] for match in labels if match]
    return [k for k in kinds if {f"delay_{k}_ms", f"mature_{k}"} <= names]


def _is_revised(samples: ds.Dataset) -> bool:
    """Whether any sample has more than one version."""
    if "revision" not in samples.schema.names:
        return False
    return bool(pc.max(samples.to_table(columns=["revision"])["revision"]).as_py())


def _kinds(samples: ds.Dataset, *, revised: bool) -> tuple[KindSummary, ...]:
    out = []
    for kind in _kind_names(samples.schema):
        label, delay, mature = f"label_{kind}", f"delay_{kind}_ms", f"mature_{kind}"
        # a kind at a time: few columns of many rows are in memory
        names = [label, delay, mature]
        if revised:
            table = latest(samples.to_table(columns=[*VERSION, *names])).select(names)
        else:
            table = samples.to_table(columns=names)
        counting = pa.types.is_int64(table.schema.field(label).type)
        absent = pc.is_null(table[delay])
        delays = table[delay].drop_null()
        median, p95 = pc.quantile(delays, q=[0.5, 0.95]).to_pylist() if len(delays) else (None,) * 2
        out.append(
            KindSummary(
                kind=kind,
                positives=len(delays),
                negatives=_true(pc.and_(absent, table[mature])),
                immature=_true(pc.and_(absent, pc.invert(table[mature]))),
                actions=int(pc.sum(table[label]).as_py() or 0) if counting else None,
                delay_median_ms=median,
                delay_p95_ms=p95,
            )
        )
    return tuple(out)


def _true(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)


def _counts(dataset: ds.Dataset, first: str, second: str) -> dict[tuple[str, str], int]:
    """Rows by two columns, the most frequent first."""
    table = dataset.to_table(columns=[first, second])
    groups = table.group_by([first, second]).aggregate([([], "count_all")]).to_pylist()
    groups.sort(key=lambda g: (-g["count_all"], g[first], g[second]))
    return {(g[first], g[second]): g["count_all"] for g in groups}


def _some_rows(samples: ds.Dataset) -> tuple[dict[str, Any], ...]:
    """The first few, and among them such with and without an action if there are."""
    kinds = _kind_names(samples.schema)
    columns = ["event_time", "request_id", "item_id", "position"]
    columns += [name for k in kinds for name in (f"label_{k}", f"delay_{k}_ms", f"mature_{k}")]
    if not kinds:
        return tuple(samples.head(SHOWN_ROWS, columns=columns).to_pylist())
    some = ds.field(f"delay_{kinds[0]}_ms").is_valid()
    for kind in kinds[1:]:
        some = some | ds.field(f"delay_{kind}_ms").is_valid()
    # one with each kind first: purchases are rare, and worth seeing
    rows: list[dict[str, Any]] = []
    filters = [
        *(ds.field(f"delay_{k}_ms").is_valid() for k in kinds[: SHOWN_ROWS - 2]),
        some,
        ~some,
    ]
    for condition in filters:
        for row in _head(samples, columns, condition, SHOWN_ROWS):
            if row not in rows:
                rows.append(row)
                break
    for row in _head(samples, columns, None, SHOWN_ROWS):
        if len(rows) < SHOWN_ROWS and row not in rows:
            rows.append(row)
    return tuple(sorted(rows[:SHOWN_ROWS], key=_row_order))


def _head(
    samples: ds.Dataset, columns: Sequence[str], condition: Any, rows: int
) -> list[dict[str, Any]]:
    table = samples.head(rows, columns=list(columns), filter=condition)
    return list(table.to_pylist())


def _row_order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (row["event_time"], row["request_id"], row["position"])


# -- printing --------------------------------------------------------------------------------------


def print_summary(
    summary: Summary, console: Console, inputs: Mapping[str, int] | None = None
) -> None:
    """Print it. `inputs`: what was read, by a name for it, if the caller has counted; otherwise it
    is worked out from what was written, as far as that tells.
    """
    _heading(console, "in")
    _lines(console, _inputs(summary, inputs))

    _heading(console, "out")
    _lines(
        console,
        [
            ("rows", summary.samples.rows, _versions(summary)),
            ("late actions", summary.late_actions.rows, _by_reason(summary.late)),
            ("rejected records", summary.rejected_records.rows, ""),
            *(
                (f"  {stream}: {reason}", count, "")
                for (stream, reason), count in summary.rejected.items()
            ),
        ],
    )
    if summary.kinds:
        _heading(console, "labels")
        _print(console, _kinds_table(summary.kinds))
    if summary.rows:
        _heading(console, "a few rows")
        _print(console, _rows_table(summary.rows, [k.kind for k in summary.kinds]))
    _heading(console, "parquet")
    _print(console, _parts_table(summary))
    # a long path is not cut: it is there to be copied
    console.print(Text(f"  under {summary.output}"), soft_wrap=True)
    if not summary.samples.rows:
        console.print(Text("  No samples were written."), style="yellow", soft_wrap=True)


def readable_ms(ms: float | None) -> str:
    """A duration with two or three digits that count: `850 ms`, `4.2 s`, `3.5 min`, `26 h`."""
    if ms is None:
        return "-"
    if abs(ms) < 1_000:
        return f"{ms:.0f} ms"
    for unit, size, limit in (("s", 1e3, 6e4), ("min", 6e4, 3.6e6), ("h", 3.6e6, 8.64e7)):
        if abs(ms) < limit:
            return f"{_digits(ms / size)} {unit}"
    return f"{_digits(ms / 8.64e7)} d"


def readable_bytes(size: float) -> str:
    """`812 B`, `3.4 kB` (1000 bytes), `25 MB`."""
    if size < 1_000:
        return f"{size:.0f} B"
    for unit, factor in (("kB", 1e3), ("MB", 1e6)):
        if size < factor * 1e3:
            return f"{_digits(size / factor)} {unit}"
    return f"{_digits(size / 1e9)} GB"


def _digits(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 9.95 else f"{value:,.0f}"


@dataclass(frozen=True)
class _Wide:
    """A table at its full width: a console without a terminal would fold it at 80 columns."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.table, options.update(width=WIDTH))


def _heading(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", style="bold"))


def _print(console: Console, table: Table) -> None:
    console.print(_Wide(table), crop=False)


def _table(*columns: str, left: int) -> Table:
    """A table without lines; the first `left` columns are texts, the others numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)  # the indent
    for n, name in enumerate(columns):
        table.add_column(name, justify="left" if n < left else "right", no_wrap=True)
    return table


def _lines(console: Console, lines: Sequence[tuple[str, int | str, str]]) -> None:
    """Name, number, and a remark."""
    table = _table("", "", "", left=1)
    table.show_header = False
    table.columns[3].justify = "left"
    table.columns[3].style = "dim"
    for name, number, remark in lines:
        text = f"{number:,}" if isinstance(number, int) else number
        table.add_row("", Text(_clip(name, 44)), Text(text), Text(_clip(remark, 36)))
    _print(console, table)


def _inputs(summary: Summary, inputs: Mapping[str, int] | None) -> list[tuple[str, int | str, str]]:
    if inputs is not None:
        return [(name, count, "") for name, count in inputs.items()]
    actions, exact = summary.actions
    return [
        ("requests", summary.requests + summary.rejected_of("features"), "with rows, or rejected"),
        ("impressions", summary.impressions, "of those with rows"),
        ("actions", f"{'' if exact else '>= '}{actions:,}", "joined, late or rejected"),
    ]


def _versions(summary: Summary) -> str:
    return f"versions of {summary.impressions:,} samples" if summary.repeated else ""


def _by_reason(late: Mapping[tuple[str, str], int]) -> str:
    reasons: dict[str, int] = {}
    for (_, reason), count in late.items():
        reasons[reason] = reasons.get(reason, 0) + count
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())


def _kinds_table(kinds: Sequence[KindSummary]) -> Table:
    table = _table(
        "action",
        "positive",
        "negative",
        "immature",
        "of rows",
        "median delay",
        "95 % delay",
        left=1,
    )
    for k in kinds:
        table.add_row(
            "",
            Text(_clip(k.kind, 24)),
            f"{k.positives:,}",
            f"{k.negatives:,}",
            f"{k.immature:,}",
            "-" if k.rate is None else f"{k.rate:.2%}",
            readable_ms(k.delay_median_ms),
            readable_ms(k.delay_p95_ms),
        )
    return table


def _rows_table(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> Table:
    """Time and ids, and for every kind for which there is room the label with its delay."""
    heads = ["time (UTC)", "request_id", "item_id"]
    cells = [
        [_time(r["event_time"]), *(_clip(r[name], ID_WIDTH) for name in heads[1:])] for r in rows
    ]
    room = WIDTH - 2 - sum(_width(heads, cells, n) + 2 for n in range(len(heads)))
    for kind in kinds:
        head, column = _clip(kind, ID_WIDTH), [_label(row, kind) for row in rows]
        width = max(cell_len(text) for text in (head, *column)) + 2
        if width > room:
            break
        room -= width
        heads.append(head)
        for line, text in zip(cells, column, strict=True):
            line.append(text)
    table = _table(*heads, left=3)
    for line in cells:
        table.add_row("", *(Text(text) for text in line))
    return table


def _width(heads: Sequence[str], cells: Sequence[Sequence[str]], n: int) -> int:
    return max(cell_len(text) for text in (heads[n], *(line[n] for line in cells)))


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def _label(row: Mapping[str, Any], kind: str) -> str:
    """`1 (4.2 s)`, `0`, or `?` where the window had not closed."""
    label, delay = row[f"label_{kind}"], row[f"delay_{kind}_ms"]
    if delay is not None:
        return f"{label:g} ({readable_ms(delay)})"
    if not row[f"mature_{kind}"]:
        return "?"
    return "-" if label is None else f"{label:g}"


def _parts_table(summary: Summary) -> Table:
    table = _table("", "rows", "files", "size", "partitions", "with _SUCCESS", "without", left=1)
    for part in (summary.samples, summary.late_actions, summary.rejected_records):
        table.add_row(
            "",
            f"{part.name}/",
            f"{part.rows:,}",
            f"{part.files:,}",
            readable_bytes(part.bytes),
            f"{part.complete + part.incomplete:,}",
            f"{part.complete:,}",
            f"{part.incomplete:,}",
        )
    return table


def _clip(text: str, width: int) -> str:
    """At most `width` columns of it (some characters take two), and nothing that moves a cursor."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if cell_len(text) <= width else set_cell_size(text, width - 2) + ".."


def summary(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT_DIR", help="The job's output.path.")],
) -> int:
    """Show what a joining job has written: samples, labels, late actions, rejected records.

    Works while the job runs, too. Exit codes: 0 printed, 2 it cannot be read.
    """
    try:
        if not output.is_dir():
            raise FileNotFoundError(f"{output}: there is no such folder")
        made = summarise(output)
    except (OSError, pa.ArrowInvalid) as error:
        print(f"summary: {error}", file=sys.stderr)
        return 2
    print_summary(made, Console(highlight=False))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run(summary, argv, "python -m tools.summary")
