"""Is the joined Parquet what the KuaiRand file says? ``python examples/kuairand/check.py --help``.

Works out from the file itself what must have come out, by brute force over all pairs of a request
and an action that could belong together, and compares every row, every late action and every
rejected record with it. Nothing is shared with convert.py or with the join: another reader of the
file, another reader of the configuration, the rules of docs/join-semantics.md (1, 2, 5, 7, 11)
written down once more. What it knows of the conversion is the meaning of the columns and that a
request is called by the line of the file that it comes from (`line-<number>`, header = 1).

Only for files that are sorted by time (then nothing can come late), and without clock skew.
Exit codes: 0 no difference, 1 differences, 2 it cannot be checked, and why.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.csv as pcsv
import pyarrow.dataset as ds
import tomli

#: By kind: the column that says whether it happened, that of its delay (ms), that of its value.
KINDS: dict[str, tuple[str, str | None, str | None]] = {
    "click": ("is_click", None, None),
    "long_view": ("long_view", "play_time_ms", "play_time_ms"),
    "comment": ("is_comment", "comment_stay_time", None),
    "like": ("label", "play_time_ms", None),
}
UNITS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
SHOWN = 5  # differences of a sort that are printed


class Action(NamedTuple):
    """Something that happened to the exposure at `line`; times are epoch ms."""

    line: int
    kind: str
    time: int
    value: float | None

    @property
    def name(self) -> str:
        """The event id that the converter gives it."""
        return f"line-{self.line:08}-{self.kind}"


@dataclass(frozen=True)
class Rules:
    """What a pipeline.toml says; durations in ms, `complete_until` epoch ms."""

    key: str
    windows: dict[str, int]
    labels: dict[str, str]
    horizon: int
    complete_until: int | None

    @classmethod
    def read(cls, path: Path, key: str | None) -> Rules:
        """Raises ValueError for a configuration that this check does not know to judge."""
        config = tomli.loads(path.read_text(encoding="utf-8"))
        join, end, kinds = config["join"], config.get("end_of_input", {}), config["actions"]
        if duration(join.get("clock_skew", "0s")) != 0:
            raise ValueError(f"{path}: join.clock_skew: only 0 can be checked")
        if end.get("immature", "mark") != "mark":
            raise ValueError(f'{path}: end_of_input.immature: only "mark" can be checked')
        if set(kinds) != set(KINDS):
            raise ValueError(f"{path}: actions: expected {', '.join(KINDS)}")
        windows = {kind: duration(kinds[kind]["window"]) for kind in KINDS}
        horizon = join.get("late_horizon")
        return cls(
            key=key or join["key"],
            windows=windows,
            labels={kind: kinds[kind].get("label", "any") for kind in KINDS},
            horizon=2 * max(windows.values()) if horizon is None else duration(horizon),
            complete_until=end.get("complete_until"),
        )


@dataclass(frozen=True)
class Outcome:
    """What came out, or must: by request, by (action, request) and by action."""

    rows: dict[str, dict[str, Any]]
    late: dict[str, dict[str, Any]]
    orphans: set[str]
    others: Counter[str]  # rejected for another reason than being an orphan
    partitions: Counter[str]  # rows by dt=…/hr=…


def duration(text: str) -> int:
    """ "5min" in milliseconds."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz").strip()
    return int(digits) * UNITS[text.removeprefix(digits).strip()]


# -- what the file says ----------------------------------------------------------------------------


def read(path: Path) -> dict[int, dict[str, Any]]:
    """The exposures by the number of their line."""
    table = pcsv.read_csv(
        path,
        parse_options=pcsv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
    )
    return dict(enumerate(table.to_pylist(), start=2))


def happened(exposures: dict[int, dict[str, Any]]) -> list[Action]:
    """All actions of all exposures."""
    return [
        Action(
            line,
            kind,
            row["time_ms"] + (0 if delay is None else row[delay]),
            None if value is None else float(row[value]),
        )
        for line, row in exposures.items()
        for kind, (flag, delay, value) in KINDS.items()
        if row[flag] == 1
    ]


def expected(
    exposures: dict[int, dict[str, Any]], actions: Sequence[Action], rules: Rules
) -> Outcome:
    """Brute force: every action is held against every request that could have it."""

    def group(line: int) -> tuple[int, ...]:
        if rules.key == "request_id":
            return (line,)
        return (exposures[line]["user_id"], exposures[line]["video_id"])

    candidates: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
    for line, row in exposures.items():
        candidates[group(line)].append((row["time_ms"], line))

    joined: dict[int, list[Action]] = defaultdict(list)
    late: dict[str, dict[str, Any]] = {}
    orphans: set[str] = set()
    for action in actions:
        # of several the latest request, at one time that of the later line: its id is greater
        before = [c for c in candidates[group(action.line)] if c[0] <= action.time]
        in_window = [c for c in before if action.time <= c[0] + rules.windows[action.kind]]
        remembered = [c for c in before if action.time <= c[0] + rules.horizon]
        if in_window:
            joined[max(in_window)[1]].append(action)
        elif remembered:
            time, line = max(remembered)
            late[action.name] = {
                "request_id": f"line-{line:08}",
                "user_id": str(exposures[line]["user_id"]),
                "item_id": str(exposures[line]["video_id"]),
                "position": 0,
                "request_time": time,
                "action": action.kind,
                "value": action.value,
                "event_time": action.time,
                "delay_ms": action.time - time,
                "reason": "outside_window",
            }
        else:
            orphans.add(action.name)

    progress = min(
        max(row["time_ms"] for row in exposures.values()), max(action.time for action in actions)
    )
    if rules.complete_until is not None:
        progress = rules.complete_until
    rows = {
        f"line-{line:08}": sample(row, joined[line], rules, progress)
        for line, row in exposures.items()
    }
    partitions = Counter(partition(row["event_time"]) for row in rows.values())
    return Outcome(rows, late, orphans, Counter(), partitions)


def sample(
    row: dict[str, Any], joined: Sequence[Action], rules: Rules, progress: int
) -> dict[str, Any]:
    """The columns that follow from an exposure and the actions that belong to it."""
    out: dict[str, Any] = {
        "user_id": str(row["user_id"]),
        "item_id": str(row["video_id"]),
        "position": 0,
        "event_time": row["time_ms"],
        "hour": row["hourmin"] // 100,
        "duration_ms": row["duration_ms"],
    }
    for kind, window in rules.windows.items():
        mine = sorted((a.time, a.value or 0.0) for a in joined if a.kind == kind)
        values = [value for _, value in mine]
        out[f"label_{kind}"] = {
            "any": min(1, len(mine)),
            "count": len(mine),
            "sum": sum(values),
            "max": max(values, default=None),
            "last": values[-1] if values else None,
        }[rules.labels[kind]]
        out[f"delay_{kind}_ms"] = mine[0][0] - row["time_ms"] if mine else None
        out[f"mature_{kind}"] = row["time_ms"] + window <= progress
    return out


def partition(time: int) -> str:
    """Where a row of that time (epoch ms) lies."""
    return datetime.fromtimestamp(time // 1000, timezone.utc).strftime("dt=%Y-%m-%d/hr=%H")


# -- what came out ---------------------------------------------------------------------------------


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of all Parquet files under a folder, each with its partition as `at`."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith((".", "_")) for part in inside.parts)
        if path.is_file() and not hidden:
            for row in ds.dataset(path, format="parquet").to_table().to_pylist():
                yield {**row, "at": inside.parent.as_posix()}


def found(output: Path) -> tuple[Outcome, list[str]]:
    """What lies under a job's output, and what is wrong about it whatever the file says."""
    rows: dict[str, dict[str, Any]] = {}
    partitions: Counter[str] = Counter()
    wrong: list[str] = []
    ids: set[int] = set()
    for row in records(output / "samples"):
        name = row["request_id"]
        if name in rows:
            wrong.append(f"{name}: two rows")
        if row["at"] != partition(row["event_time"]):
            wrong.append(f"{name}: in the wrong partition {row['at']}")
        if row["sample_id"] in ids:
            wrong.append(f"{name}: its sample_id is another's as well")
        ids.add(row["sample_id"])
        rows[name] = row
        partitions[row["at"]] += 1
    wrong += [
        f"{at}: no _SUCCESS"
        for at in sorted(partitions)
        if not (output / "samples" / at / "_SUCCESS").exists()
    ]

    late: dict[str, dict[str, Any]] = {}
    for row in records(output / "late_actions"):
        if row["event_id"] in late:
            wrong.append(f"{row['event_id']}: late twice")
        if rows.get(row["request_id"], {}).get("sample_id") != row["sample_id"]:
            wrong.append(f"{row['event_id']}: its sample_id is not that of {row['request_id']}")
        late[row["event_id"]] = row

    orphans: set[str] = set()
    others: Counter[str] = Counter()
    for row in records(output / "rejected"):
        name = None
        if row["reason"] == "orphan_action":
            name = json.loads(row["raw"])["event_id"]
        if name is None or name in orphans:
            others[f"{row['stream']}: {row['reason']}"] += 1
        else:
            orphans.add(name)
    return Outcome(rows, late, orphans, others, partitions), wrong


# -- the two side by side --------------------------------------------------------------------------


class Report:
    """A table of what the file says and what came out; remembers whether they ever differed."""

    def __init__(self) -> None:
        self.differs = False
        print(f"{'':<40}{'from the file':>16}{'came out':>16}")

    def line(self, what: str, want: float, got: float) -> None:
        """Print a figure beside the one that is wanted, and remember when they differ."""
        self.differs |= want != got
        print(f"{what:<40}{want:>16,}{got:>16,}{'' if want == got else '   DIFFERENT'}")

    def list(self, what: str, wrong: Sequence[str]) -> None:
        """Of things that must not be."""
        self.line(what, 0, len(wrong))
        for text in wrong[:SHOWN]:
            print(f"    {text}")


def compare(
    exposures: dict[int, dict[str, Any]],
    actions: Sequence[Action],
    want: Outcome,
    output: Path,
    rules: Rules,
) -> bool:
    """Prints the table. Whether all is as it must be."""
    got, wrong = found(output)
    report = Report()
    report.line("requests = rows", len(exposures), len(got.rows))
    for kind in KINDS:
        report.line(f"{kind}: positives", *(positives(o, kind) for o in (want, got)))
        report.line("  negatives", *(without(o, kind, mature=True) for o in (want, got)))
        report.line(
            "  window open at the end", *(without(o, kind, mature=False) for o in (want, got))
        )
        counted = [a for a in actions if a.kind == kind]
        late = [of_kind(o.late, kind) for o in (want, got)]
        orphans = [of_kind(o.orphans, kind) for o in (want, got)]
        # every action is in exactly one place, as far as the output alone shows it
        if rules.labels[kind] == "count":
            joined = sum(row[f"label_{kind}"] for row in got.rows.values())
            report.line("  actions", len(counted), joined + late[1] + orphans[1])
        elif rules.key == "request_id":  # a line has one action of a kind at most
            joined = positives(got, kind)
            report.line("  actions", len(counted), joined + late[1] + orphans[1])
        if rules.labels[kind] == "sum":
            total = sum(row[f"label_{kind}"] for row in got.rows.values())
            total += sum(row["value"] for row in got.late.values() if row["action"] == kind)
            values = {a.name: a.value or 0.0 for a in counted}
            total += sum(values.get(name, 0.0) for name in got.orphans)
            report.line("  sum of values", round(sum(values.values())), round(total))
        report.line("    of them late (outside_window)", *late)
        report.line("    of them orphans (after the horizon)", *orphans)
    report.line("rejected for any other reason", 0, got.others.total())
    for reason, count in sorted(got.others.items()):
        print(f"    {reason}: {count:,}")
    report.line("partitions", len(want.partitions), len(got.partitions))
    print()
    report.list("rows that differ", differences(want.rows, got.rows))
    report.list("late actions that differ", differences(want.late, got.late))
    report.list("orphans that differ", sorted(want.orphans ^ got.orphans))
    report.list("other faults", wrong)
    return not report.differs


def positives(outcome: Outcome, kind: str) -> int:
    """Rows with an action of the kind."""
    return sum(row[f"delay_{kind}_ms"] is not None for row in outcome.rows.values())


def without(outcome: Outcome, kind: str, *, mature: bool) -> int:
    """Rows without an action of the kind: negatives, or such whose window had not closed."""
    return sum(
        row[f"delay_{kind}_ms"] is None and row[f"mature_{kind}"] is mature
        for row in outcome.rows.values()
    )


def of_kind(names: dict[str, Any] | set[str], kind: str) -> int:
    """How many of the event ids are of actions of the kind."""
    return sum(name.endswith(f"-{kind}") for name in names)


def differences(want: dict[str, dict[str, Any]], got: dict[str, dict[str, Any]]) -> list[str]:
    """One line a record that is missing, superfluous, or has another value in a wanted column."""
    out = [f"{name}: missing" for name in sorted(want.keys() - got.keys())]
    out += [f"{name}: nothing of the file" for name in sorted(got.keys() - want.keys())]
    for name in sorted(want.keys() & got.keys()):
        wrong = [
            f"{column} {got[name].get(column)!r}, expected {value!r}"
            for column, value in want[name].items()
            if got[name].get(column) != value
        ]
        if wrong:
            out.append(f"{name}: {'; '.join(wrong)}")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit codes as above."""
    parser = argparse.ArgumentParser(description="Compare joined Parquet with the KuaiRand file.")
    parser.add_argument("--input", type=Path, required=True, help="the tab-separated file")
    parser.add_argument("--config", type=Path, required=True, help="the pipeline.toml of the run")
    parser.add_argument("--output", type=Path, required=True, help="its output.path")
    parser.add_argument(
        "--key", choices=("request_id", "user_id"), help="if the run had --set join.key=…"
    )
    options = parser.parse_args(argv)
    try:
        rules = Rules.read(options.config, options.key)
        exposures = read(options.input)
        if not options.output.is_dir():
            raise FileNotFoundError(f"{options.output}: there is no such folder")
        actions = happened(exposures)
        same = compare(
            exposures, actions, expected(exposures, actions, rules), options.output, rules
        )
    except (OSError, ValueError, KeyError) as error:
        print(f"cannot check: {error}", file=sys.stderr)
        return 2
    print("\nno difference" if same else "\nDIFFERENT: see above")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
