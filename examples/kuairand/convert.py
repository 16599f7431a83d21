"""KuaiRand as two event streams: ``python examples/kuairand/convert.py --input FILE --out DIR``.

Writes, ready for ``python -m jobs.join_samples --config DIR/pipeline.toml``::

    features/YYYY-MM-DD.jsonl  actions/YYYY-MM-DD.jsonl   by UTC day of the event, sorted by time
    pipeline.toml                                         the one beside this file

A line of the file is an exposure of one video to one user, with all that became of it; times are
epoch milliseconds, durations milliseconds:

* a request of one item at `time_ms`, with the features `hour` (context: the hour of the day as it
  was logged, UTC+8) and `duration_ms` (item: the length of the video);
* `click` at `time_ms`, if `is_click`;
* `long_view` at `time_ms + play_time_ms`, if `long_view`, with the value `play_time_ms`;
* `comment` at `time_ms + comment_stay_time`, if `is_comment`;
* `like` at `time_ms + play_time_ms`, if `label`. When it really happened is not in the data; the
  end of the playing stands for it, so the delays of likes are made up.

Some exposures are in the file more than once, equal in user, video and time. Each is a request of
its own: its id is the number of its line (the header is line 1), so that a sample can be looked up.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any

PIPELINE = Path(__file__).with_name("pipeline.toml")

COLUMNS = (
    "user_id",
    "video_id",
    "hourmin",
    "time_ms",
    "is_click",
    "is_comment",
    "long_view",
    "play_time_ms",
    "duration_ms",
    "comment_stay_time",
    "label",
)


@dataclass(frozen=True)
class Event:
    """A record of a stream. Events sort by time, at one time by the line that they come from."""

    event_time: int  # epoch ms
    line: int
    record: dict[str, Any]


def exposures(path: Path) -> Iterator[tuple[int, dict[str, int]]]:
    """The number of each line and its columns.

    Raises ValueError, which names the line, for what is not a number, or where columns are missing.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = next(reader, [])
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise ValueError(f"{path}: the first line has no column {', '.join(missing)}")
        places = [(name, header.index(name)) for name in COLUMNS]
        for cells in reader:
            if len(cells) != len(header):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(cells)} columns, {len(header)} expected"
                )
            try:
                yield reader.line_num, {name: int(cells[place]) for name, place in places}
            except ValueError as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def request(line: int, row: dict[str, int]) -> Event:
    """The feature event of an exposure."""
    record = {
        "request_id": request_id(line),
        "user_id": str(row["user_id"]),
        "event_time": row["time_ms"],
        "context": {"hour": row["hourmin"] // 100},
        "items": [
            {"item_id": str(row["video_id"]), "features": {"duration_ms": row["duration_ms"]}}
        ],
    }
    return Event(row["time_ms"], line, record)


def actions(line: int, row: dict[str, int]) -> Iterator[Event]:
    """What the user did, one event per kind."""
    for kind, column, delay in (
        ("click", "is_click", 0),
        ("long_view", "long_view", row["play_time_ms"]),
        ("comment", "is_comment", row["comment_stay_time"]),
        ("like", "label", row["play_time_ms"]),
    ):
        if row[column] == 1:
            time = row["time_ms"] + delay
            record = {
                "event_id": f"{request_id(line)}-{kind}",
                "user_id": str(row["user_id"]),
                "item_id": str(row["video_id"]),
                "request_id": request_id(line),
                "action": kind,
                "value": row["play_time_ms"] if kind == "long_view" else None,
                "event_time": time,
            }
            yield Event(time, line, record)


def request_id(line: int) -> str:
    """Ids sort like lines, which is what decides between requests at one time (key user_id)."""
    return f"line-{line:08}"


def write(folder: Path, events: Iterable[Event]) -> tuple[int, int]:
    """One file a UTC day, sorted by time. Returns the numbers of records and of files."""
    folder.mkdir(parents=True)
    records = files = 0
    ordered = sorted(events, key=lambda event: (event.event_time, event.line))
    for day, group in groupby(ordered, key=_day):
        with (folder / f"{day}.jsonl").open("w", encoding="utf-8") as file:
            for event in group:
                file.write(json.dumps(event.record, separators=(",", ":")) + "\n")
                records += 1
        files += 1
    return records, files


def _day(event: Event) -> str:
    return datetime.fromtimestamp(event.event_time / 1000, timezone.utc).strftime("%Y-%m-%d")


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit codes: 0 written, 2 it cannot be, and why."""
    parser = argparse.ArgumentParser(description="Turn the KuaiRand file into two event streams.")
    parser.add_argument("--input", type=Path, required=True, help="the tab-separated file")
    parser.add_argument("--out", type=Path, required=True, help="a new or empty directory")
    options = parser.parse_args(argv)
    out: Path = options.out
    try:
        if out.exists() and any(out.iterdir()):
            raise FileExistsError(f"{out} is not empty: give a new directory")
        rows = list(exposures(options.input))
        written = {
            "features": write(out / "features", (request(line, row) for line, row in rows)),
            "actions": write(
                out / "actions", (event for line, row in rows for event in actions(line, row))
            ),
        }
        shutil.copyfile(PIPELINE, out / PIPELINE.name)
    except (OSError, ValueError) as error:
        print(f"cannot convert: {error}", file=sys.stderr)
        return 2
    for stream, (records, files) in written.items():
        print(f"{stream:<8}  {records:>7,} records in {files} files")
    print(f"now: python -m jobs.join_samples --config {out / PIPELINE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
