"""Reads the fixtures of `tests/fixtures/by_hand`: small event files with a truth written by hand.

`load` gives the configuration and the truth, with what the truth leaves out filled in;
`read_in_order` the records in the order in which the one ordered reader of files gives them. Only
the standard library: what is tested against these files should not also read them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import tomli

from tests.timeline import Action, Event, Rules, Timeline, Watermark
from tests.timeline import Request as RequestEvent

FOLDER = Path(__file__).parent / "fixtures" / "by_hand"
SETS = ("request_id", "user_id")

#: Reasons that the join gives; all others come from decoding.
JOIN_REASONS = {"late_request", "duplicate_request", "orphan_action", "duplicate_action"}

_UNITS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_NO_ACTION = {"any": 0, "count": 0, "sum": 0.0, "max": None, "last": None}


@dataclass(frozen=True)
class Line:
    """A record as it lies in a file; `file` is relative to the set, `number` counts from 1."""

    stream: str
    file: str
    number: int
    offset: int
    raw: bytes


@dataclass(frozen=True)
class ByHand:
    """A fixture set. The truth has one dict an expected row, late action and rejected record."""

    folder: Path
    config: dict[str, Any]
    samples: list[dict[str, Any]]
    late: list[dict[str, Any]]
    rejected: list[dict[str, Any]]

    @property
    def rules(self) -> Rules:
        """The join as it is configured."""
        actions: dict[str, dict[str, str]] = self.config["actions"]
        join, end = self.config["join"], self.config["end_of_input"]
        return Rules(
            key=join["key"],
            windows={kind: duration(spec["window"]) for kind, spec in actions.items()},
            labels=cast(Any, {kind: spec["label"] for kind, spec in actions.items()}),
            skew=duration(join["clock_skew"]),
            lateness=duration(join["allowed_lateness"]),
            horizon=duration(join["late_horizon"]) if "late_horizon" in join else None,
            immature=end["immature"],
        )


def duration(text: str) -> int:
    """ "10s" in milliseconds; also ms, min, h and d."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    return int(digits) * _UNITS[text.removeprefix(digits)]


def load(name: str) -> ByHand:
    """The set of this name, with the defaults of the truth filled in.

    A sample that says nothing of an action has the label of no action and no delay, and is mature;
    of a feature: null. `sample_id` is there only where the file has it.
    """
    folder = FOLDER / name
    config = tomli.loads((folder / "pipeline.toml").read_text())
    defaults: dict[str, Any] = dict.fromkeys(config["features"])
    for kind, spec in config["actions"].items():
        defaults[f"label_{kind}"] = _NO_ACTION[spec["label"]]
        defaults[f"delay_{kind}_ms"] = None
        defaults[f"mature_{kind}"] = True

    def truth(what: str) -> list[dict[str, Any]]:
        lines = (folder / f"expected_{what}.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    return ByHand(
        folder=folder,
        config=config,
        samples=[defaults | row for row in truth("samples")],
        late=truth("late_actions"),
        rejected=truth("rejected"),
    )


def lines(by_hand: ByHand, stream: str) -> Iterator[list[Line]]:
    """The files of a stream in the order of their paths; a line of blanks is not a record."""
    for path in sorted((by_hand.folder / stream).glob("*.jsonl")):
        offset, out = 0, []
        for number, raw in enumerate(path.read_bytes().split(b"\n"), 1):
            if raw.strip():
                out.append(Line(stream, f"{stream}/{path.name}", number, offset, raw))
            offset += len(raw) + 1
        yield out


def read_in_order(by_hand: ByHand) -> list[Line]:
    """Both streams as one. Every file is small, so that it is one chunk of the reader.

    The next chunk is the one whose first readable time is least; at equal times, of features.
    """
    bad = {(r["file"], r["line"]) for r in by_hand.rejected if r["reason"] not in JOIN_REASONS}
    waiting = {stream: list(lines(by_hand, stream)) for stream in ("features", "actions")}

    def first_time(stream: str) -> int:
        line = next(x for x in waiting[stream][0] if (x.file, x.number) not in bad)
        return cast(int, json.loads(line.raw)["event_time"])

    out: list[Line] = []
    while any(waiting.values()):
        stream = min((s for s in waiting if waiting[s]), key=first_time)
        out += waiting[stream].pop(0)
    return out


def event(line: Line) -> RequestEvent | Action:
    """What a good line says, without its features."""
    record = json.loads(line.raw)
    if line.stream == "features":
        return RequestEvent(
            request_id=record["request_id"],
            user_id=record["user_id"],
            event_time=record["event_time"],
            items=tuple(item["item_id"] for item in record["items"]),
        )
    return Action(
        event_id=record.get("event_id"),
        user_id=record["user_id"],
        item_id=record["item_id"],
        request_id=record.get("request_id"),
        action=record["action"],
        value=record.get("value"),
        event_time=record["event_time"],
    )


def timeline(by_hand: ByHand) -> Timeline:
    """What the join sees of these files (no out-of-orderness): bad records never move time."""
    bad = {(r["file"], r["line"]) for r in by_hand.rejected if r["reason"] not in JOIN_REASONS}
    seen: dict[str, int] = {}
    events: list[Event] = []
    announced: int | None = None
    for line in read_in_order(by_hand):
        if (line.file, line.number) in bad:
            continue
        read = event(line)
        events.append(read)
        seen[line.stream] = max(read.event_time, seen.get(line.stream, read.event_time))
        if len(seen) == 2 and announced != min(seen.values()) - 1:
            announced = min(seen.values()) - 1
            events.append(Watermark(announced))
    return Timeline(tuple(events), min(seen.values()) if len(seen) == 2 else None)
