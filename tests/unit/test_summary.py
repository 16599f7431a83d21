"""The summary of a run, over small outputs written here."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.cells import cell_len
from rich.console import Console

from schemas.actions import ActionKind
from schemas.features import Feature, FeatureSchema, FeatureType
from schemas.samples import LATE_ACTIONS, REJECTED, samples
from tools.summary.command import main
from tools.summary.read import KindSummary, Summary, summarise
from tools.summary.show import WIDTH, print_summary, readable_bytes, readable_ms

HOUR_9 = 1_700_038_800_000  # 2023-11-15 09:00 UTC
AT_9 = "dt=2023-11-15/hr=09"
AT_10 = "dt=2023-11-15/hr=10"

CLICK = ActionKind("click", 10_000, "any")
LIKE = ActionKind("like", 10_000, "count")
PAY = ActionKind("pay", 20_000, "sum")
DWELL = ActionKind("dwell", 20_000, "max")
RATE = ActionKind("rate", 20_000, "last")


def write(folder: Path, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> None:
    """One file more in a partition."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"part-{len(list(folder.iterdir()))}.parquet"
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), folder / name)


def sample(request: str, position: int, **labels: tuple[float | None, int | None, bool]) -> Any:
    """A row of 09:00; `labels`: label, delay in ms and maturity by kind."""
    row: dict[str, Any] = {
        "request_id": request,
        "item_id": f"i{position}",
        "position": position,
        "event_time": HOUR_9,
    }
    for kind, (label, delay, mature) in labels.items():
        row[f"label_{kind}"] = label
        row[f"delay_{kind}_ms"] = delay
        row[f"mature_{kind}"] = mature
    return row


def printed(summary: Summary, inputs: Mapping[str, int] | None = None, **console: Any) -> str:
    """What a file or a pipe gets; the console believes in 80 columns then."""
    out = io.StringIO()
    print_summary(summary, Console(file=out, highlight=False, **console), inputs)
    return out.getvalue()


def row_of(text: str, start: str) -> list[str]:
    """The words of the first line that starts with a text."""
    return next(line.split() for line in text.splitlines() if line.strip().startswith(start))


def kind(summary: Summary, name: str) -> KindSummary:
    return next(k for k in summary.kinds if k.kind == name)


# -- labels ----------------------------------------------------------------------------------------


def test_positives_negatives_and_immature_are_the_rows(tmp_path: Path) -> None:
    rows = [
        sample("r1", 0, click=(1, 4_000, True)),
        sample("r1", 1, click=(0, None, True)),
        sample("r1", 2, click=(0, None, True)),
        sample("r2", 0, click=(0, None, False)),  # no click yet, but there is time: no negative
        sample("r2", 1, click=(1, 0, False)),  # a click at once: positive, whatever may come
    ]
    write(tmp_path / "samples" / AT_9, samples(FeatureSchema(()), [CLICK]), rows)

    summary = summarise(tmp_path)
    click = kind(summary, "click")

    assert (click.positives, click.negatives, click.immature) == (2, 2, 1)
    assert click.rate == 2 / 5
    assert (summary.requests, summary.impressions) == (2, 5)


@pytest.mark.parametrize(
    ("action", "none", "one"),
    [(CLICK, 0, 1), (LIKE, 0, 2), (PAY, 0.0, -3.5), (DWELL, None, 0.0), (RATE, None, 0.0)],
    ids=lambda value: value.label if isinstance(value, ActionKind) else "",
)
def test_a_positive_is_a_row_with_a_delay_whatever_the_aggregate(
    tmp_path: Path, action: ActionKind, none: float | None, one: float
) -> None:
    rows = [
        sample("r1", 0, **{action.name: (one, 1_000, True)}),
        sample("r1", 1, **{action.name: (none, None, True)}),
    ]
    write(tmp_path / "samples" / AT_9, samples(FeatureSchema(()), [action]), rows)

    summary = summarise(tmp_path)
    [result] = summary.kinds

    assert (result.positives, result.negatives, result.immature) == (1, 1, 0)
    # a count says how many actions were joined, the others only that there was one
    assert result.actions == (2 if action is LIKE else None)
    assert summary.actions == ((2, True) if action is LIKE else (1, False))
    assert "1.0 s" in printed(summary)


def test_delays_are_interpolated_quantiles_of_all_files(tmp_path: Path) -> None:
    schema = samples(FeatureSchema(()), [CLICK])
    for at, delays in ((AT_9, range(51)), (AT_10, range(51, 101))):
        rows = [sample(f"r{d}", 0, click=(1, d * 1_000, True)) for d in delays]
        write(tmp_path / "samples" / at, schema, rows)

    click = kind(summarise(tmp_path), "click")

    assert (click.delay_median_ms, click.delay_p95_ms) == (50_000, 95_000)
    assert row_of(printed(summarise(tmp_path)), "click")[-4:] == ["50", "s", "1.6", "min"]


def test_a_kind_that_never_happened_has_no_delay(tmp_path: Path) -> None:
    schema = samples(FeatureSchema(()), [DWELL])
    write(tmp_path / "samples" / AT_9, schema, [sample("r1", 0, dwell=(None, None, True))])

    dwell = kind(summarise(tmp_path), "dwell")

    assert (dwell.positives, dwell.delay_median_ms, dwell.delay_p95_ms) == (0, None, None)
    assert row_of(printed(summarise(tmp_path)), "dwell") == ["dwell", *"010", "0.00%", "-", "-"]


def test_files_of_before_a_kind_was_added_say_nothing_of_it(tmp_path: Path) -> None:
    """Adding an action adds columns, so both lie side by side."""
    write(
        tmp_path / "samples" / AT_9,
        samples(FeatureSchema(()), [CLICK]),
        [sample("r1", 0, click=(1, 5, True))],
    )
    write(
        tmp_path / "samples" / AT_10,
        samples(FeatureSchema(()), [CLICK, LIKE]),
        [sample("r2", 0, click=(0, None, True), like=(0, None, True))],
    )

    summary = summarise(tmp_path)

    assert summary.impressions == 2
    assert [k.kind for k in summary.kinds] == ["click", "like"]
    assert (kind(summary, "like").negatives, kind(summary, "like").immature) == (1, 0)
    printed(summary)


def test_files_of_before_a_type_became_wider_are_counted_with_the_others(tmp_path: Path) -> None:
    """A feature or a label may become float64, so both types lie side by side."""
    total = ActionKind("click", 10_000, "sum")
    for part, kind_of_click, price in ((AT_9, CLICK, "float32"), (AT_10, total, "float64")):
        features = FeatureSchema((Feature("price", FeatureType.parse(price)),))
        row = sample(part, 0, click=(1, 5, True)) | {"price": 0.5}
        write(tmp_path / "samples" / part, samples(features, [kind_of_click]), [row])
    summary = summarise(tmp_path)
    assert (summary.impressions, kind(summary, "click").positives) == (2, 2)
    printed(summary)


def test_a_feature_that_is_called_like_a_label_is_no_kind(tmp_path: Path) -> None:
    schema = samples(FeatureSchema(()), [CLICK]).append(pa.field("label_size", pa.int64()))
    write(tmp_path / "samples" / AT_9, schema, [sample("r1", 0, click=(0, None, True))])
    assert [k.kind for k in summarise(tmp_path).kinds] == ["click"]


# -- what else there is ----------------------------------------------------------------------------


def full(folder: Path) -> None:
    """Samples in two partitions, one of them complete; late actions and rejected records."""
    schema = samples(FeatureSchema(()), [CLICK, LIKE])
    rows = [
        sample("r1", 0, click=(1, 4_000, True), like=(2, 5_000, True)),
        sample("r1", 1, click=(0, None, True), like=(0, None, True)),
    ]
    write(folder / "samples" / AT_9, schema, rows)
    write(
        folder / "samples" / AT_9,
        schema,
        [sample("r2", 0, click=(0, None, True), like=(0, None, True))],
    )
    (folder / "samples" / AT_9 / "_SUCCESS").touch()
    write(
        folder / "samples" / AT_10,
        schema,
        [sample("r3", 0, click=(0, None, False), like=(0, None, False))],
    )
    late = [
        {"request_id": "r1", "action": action, "reason": reason}
        for action, reason in (
            ("click", "after_settle"),
            ("like", "outside_window"),
            ("like", "outside_window"),
        )
    ]
    write(folder / "late_actions" / AT_9, LATE_ACTIONS, late)
    rejected = [
        {"stream": stream, "reason": reason, "raw": b"{"}
        for stream, reason in (
            ("features", "broken_json"),
            ("actions", "orphan_action"),
            ("actions", "orphan_action"),
        )
    ]
    write(folder / "rejected" / AT_9, REJECTED, rejected)


def test_what_went_where_is_counted_by_reason(tmp_path: Path) -> None:
    full(tmp_path)

    summary = summarise(tmp_path)

    assert summary.late == {("like", "outside_window"): 2, ("click", "after_settle"): 1}
    assert summary.rejected == {("actions", "orphan_action"): 2, ("features", "broken_json"): 1}
    assert (summary.rejected_of("actions"), summary.rejected_of("features")) == (2, 1)
    # 1 row with a click and 2 likes, 3 late, 2 orphans; a click label only says "at least one"
    assert summary.actions == (8, False)


def test_partitions_files_and_bytes(tmp_path: Path) -> None:
    full(tmp_path)
    files = list((tmp_path / "samples").rglob("*.parquet"))

    part = summarise(tmp_path).samples

    assert (part.rows, part.files, part.complete, part.incomplete) == (4, 3, 1, 1)
    assert part.bytes == sum(file.stat().st_size for file in files)


def test_names_that_are_not_data_are_not_read(tmp_path: Path) -> None:
    full(tmp_path)
    before = summarise(tmp_path)
    partition = tmp_path / "samples" / AT_9
    (partition / ".part-9.parquet.inprogress").write_bytes(b"half a file")
    (partition / ".part-9.parquet").write_bytes(b"half a file")
    (partition / "_part-9.parquet").write_bytes(b"half a file")
    for name in (".staging", "_temporary"):
        (tmp_path / "samples" / name).mkdir()
        (tmp_path / "samples" / name / "part-0.parquet").write_bytes(b"half a file")

    assert summarise(tmp_path) == before


def test_an_output_under_a_hidden_folder_is_read(tmp_path: Path) -> None:
    full(tmp_path / ".run" / "_out")
    assert summarise(tmp_path / ".run" / "_out").impressions == 4


@pytest.mark.parametrize("there", ["nothing", "the folder", "empty parts"])
def test_without_output_there_is_still_a_summary(tmp_path: Path, there: str) -> None:
    output = tmp_path / "out"
    if there != "nothing":
        output.mkdir()
    if there == "empty parts":
        for name in ("samples", "late_actions", "rejected"):
            (output / name).mkdir()

    summary = summarise(output)

    assert (summary.impressions, summary.kinds, summary.rows) == (0, (), ())
    assert summary.actions == (0, True)
    assert "No samples were written" in printed(summary)


def test_a_file_without_rows_still_has_its_kinds(tmp_path: Path) -> None:
    write(tmp_path / "samples" / AT_9, samples(FeatureSchema(()), [CLICK]), [])

    click = kind(summarise(tmp_path), "click")

    assert (click.positives, click.negatives, click.immature, click.rate) == (0, 0, 0, None)
    printed(summarise(tmp_path))


def test_samples_alone_are_enough(tmp_path: Path) -> None:
    write(
        tmp_path / "samples" / AT_9,
        samples(FeatureSchema(()), [LIKE]),
        [sample("r1", 0, like=(3, 1, True))],
    )
    summary = summarise(tmp_path)
    assert (summary.late, summary.rejected, summary.actions) == ({}, {}, (3, True))
    printed(summary)


def test_of_the_rows_that_are_shown_each_kind_has_one_if_it_can(tmp_path: Path) -> None:
    rows = [sample("a", n, click=(0, None, True), like=(0, None, True)) for n in range(50)]
    rows.append(sample("b", 0, click=(1, 7, True), like=(0, None, True)))
    rows.append(sample("c", 0, click=(0, None, True), like=(1, 8, True)))
    write(tmp_path / "samples" / AT_9, samples(FeatureSchema(()), [CLICK, LIKE]), rows)

    shown = summarise(tmp_path).rows

    assert {"a", "b", "c"} == {row["request_id"] for row in shown}
    assert [row["position"] for row in shown] == [0, 1, 2, 3, 0, 0]


# -- on the console --------------------------------------------------------------------------------


def wide(folder: Path) -> None:
    """More kinds than there is room for, long ids, large numbers."""
    kinds = [ActionKind(f"a_kind_with_a_long_name_{n}", 10_000, "sum") for n in range(12)]
    labels = {k.name: (123_456_789.0, 3_599_000, True) for k in kinds}
    rows = [sample("r" * 80, n, **labels) for n in range(8)]
    for n, row in enumerate(rows):
        row["item_id"] = ("视频" * 30, "two\nlines", "\x1b[31mred", "ü" * 30)[n % 4]
    write(folder / "samples" / AT_9, samples(FeatureSchema(()), kinds), rows)
    write(
        folder / "rejected" / AT_9,
        REJECTED,
        [{"stream": "actions", "reason": "x" * 90, "raw": b""}],
    )


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("make", [full, wide])
def test_it_fits_in_100_columns_whatever_the_console_believes(
    tmp_path: Path, make: Any, width: int
) -> None:
    make(tmp_path)
    summary = summarise(tmp_path)

    lines = printed(summary, width=width).splitlines()

    assert max(cell_len(line) for line in lines if str(tmp_path) not in line) <= WIDTH
    assert lines == printed(summary, width=100).splitlines()  # not one line more: nothing is folded
    assert any(str(tmp_path) in line for line in lines)  # the path is whole


def test_it_is_plain_without_a_terminal_and_with_no_color(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide(tmp_path)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" not in printed(summarise(tmp_path))
    assert "\x1b[1" in printed(summarise(tmp_path), force_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in printed(summarise(tmp_path), force_terminal=True, color_system="auto")


def test_numbers_of_a_table_end_in_one_column(tmp_path: Path) -> None:
    full(tmp_path)
    lines = printed(summarise(tmp_path)).splitlines()
    start = next(n for n, line in enumerate(lines) if "positive" in line)
    head, *rows = lines[start : start + 3]
    for name in ("positive", "negative", "immature"):
        end = head.index(name) + len(name)
        assert all(row[end - 1].isdigit() and row[end : end + 1] == " " for row in rows)


def test_what_came_in_is_what_the_caller_counted_or_follows_from_the_output(tmp_path: Path) -> None:
    full(tmp_path)
    summary = summarise(tmp_path)

    text = printed(summary, {"feature records": 1_234, "action records": 56_789})
    assert row_of(text, "feature records")[2] == "1,234"
    assert row_of(text, "action records")[2] == "56,789"

    derived = printed(summary)
    assert row_of(derived, "requests")[1] == "4"  # three with rows, one rejected
    assert row_of(derived, "actions")[1:3] == [">=", "8"]


def test_labels_of_the_rows_say_what_is_not_known(tmp_path: Path) -> None:
    schema = samples(FeatureSchema(()), [CLICK, DWELL])
    rows = [
        sample("r1", 0, click=(1, 4_200, True), dwell=(2.5, 90_000, True)),
        sample("r1", 1, click=(0, None, True), dwell=(None, None, True)),
        sample("r1", 2, click=(0, None, False), dwell=(None, None, False)),
    ]
    write(tmp_path / "samples" / AT_9, schema, rows)

    text = printed(summarise(tmp_path)).splitlines()
    start = next(n for n, line in enumerate(text) if "time (UTC)" in line)

    assert [line.split()[4:] for line in text[start + 1 : start + 4]] == [
        ["1", "(4.2", "s)", "2.5", "(1.5", "min)"],
        ["0", "-"],
        ["?", "?"],
    ]


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (None, "-"),
        (0, "0 ms"),
        (-250, "-250 ms"),
        (999, "999 ms"),
        (1_000, "1.0 s"),
        (9_940, "9.9 s"),
        (9_960, "10 s"),
        (59_999, "60 s"),
        (60_000, "1.0 min"),
        (3_600_000, "1.0 h"),
        (86_400_000, "1.0 d"),
        (12_345 * 86_400_000, "12,345 d"),
    ],
)
def test_readable_durations(ms: float | None, text: str) -> None:
    assert readable_ms(ms) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (25_300_000, "25 MB"), (5e12, "5,000 GB")],
)
def test_readable_sizes(size: float, text: str) -> None:
    assert readable_bytes(size) == text


# -- the command -----------------------------------------------------------------------------------


def test_the_command_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full(tmp_path)
    assert main([str(tmp_path)]) == 0
    assert "orphan_action" in capsys.readouterr().out


def test_the_command_says_in_one_line_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert main(["s3://bucket/out"]) == 2
    full(tmp_path)
    (tmp_path / "samples" / AT_9 / "broken.parquet").write_bytes(b"no parquet")
    assert main([str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["summary"] * 3
