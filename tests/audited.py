"""A timeline and its outcome as the files that an audit reads: sources, configuration, output."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.pipeline import runs
from jobs.pipeline.config import Pipeline, document, load
from schemas import samples
from schemas.events import ActionEvent
from tests import configured, core_runner, oracle
from tests.timeline import (
    Action,
    ActionIdentity,
    Outcome,
    Request,
    Rules,
    Timeline,
    Watermark,
    context_features,
    item_features,
)

#: Added to the times of a timeline, which begin at 0: 2023-11-15 09:00 UTC.
BASE = 1_700_038_800_000
_HOUR = 3_600_000


@dataclass(frozen=True)
class _Line:
    record: Request | Action
    origin: str
    offset: int
    raw: bytes


@dataclass(frozen=True)
class _Exact(ActionIdentity):
    """With what twins may differ in, too, so that the very record can be found."""

    user_id: str = ""
    request_id: str | None = None


def _exact(action: Action | ActionEvent, rules: Rules) -> _Exact:
    a = action
    key = a.request_id if rules.key == "request_id" else a.user_id
    what = (key or "", a.event_id, a.action, a.item_id, a.value, a.event_time)
    return _Exact(*what, a.user_id, a.request_id)


class _Runner(core_runner.CoreRunner):
    def _identity(self, action: ActionEvent) -> ActionIdentity:
        return _exact(action, self.rules)


def outcome(timeline: Timeline, rules: Rules) -> Outcome:
    """What the core makes of it, for `Story.write`."""
    return _Runner(rules).run(timeline)


class _Changing(_Runner):
    """Goes on with another configuration at the event with this number, as after a savepoint."""

    def __init__(self, rules: Rules, changes: Mapping[int, Rules]) -> None:
        super().__init__(rules)
        self._changes = changes
        self._events = 0

    def _request(self, request: Request) -> None:
        self._change()
        super()._request(request)

    def _action(self, action: Action) -> None:
        self._change()
        super()._action(action)

    def _change(self) -> None:
        rules = self._changes.get(self._events)
        self._events += 1
        if rules is not None:
            self.go_on_with(rules)


def outcome_of_changes(timeline: Timeline, rules: Rules, changes: Mapping[int, Rules]) -> Outcome:
    """What the core makes of it, when the rules change with the events of these numbers."""
    return _Changing(rules, changes).run(timeline)


class Story:
    """A timeline in a folder. `write` puts an outcome beside it, and may be called again."""

    def __init__(
        self, folder: Path, timeline: Timeline, rules: Rules, *, in_bounds: bool = False
    ) -> None:
        """`in_bounds`: of the timeline; then the audit can see that it is."""
        self._folder = folder
        self._rules = rules
        # The watermarks of a timeline do not follow its events. Of one log the audit knows how far
        # the watermark was at most: nowhere, with a bound this long. Of two it knows nothing.
        logs, bound = (1, "1h") if in_bounds else (2, None)
        self._lines: list[_Line] = []
        files: dict[Path, bytes] = defaultdict(bytes)
        for n, event in enumerate(e for e in timeline.events if not isinstance(e, Watermark)):
            if isinstance(event, Request):
                path, record = folder / "features" / str(n % logs) / "1.jsonl", _request(event)
            else:
                path, record = folder / "actions" / "1.jsonl", _action(event)
            raw = json.dumps(record).encode()
            self._lines.append(_Line(event, str(path), len(files[path]), raw))
            files[path] += raw + b"\n"
        for place in (*(f"features/{log}" for log in range(logs)), "actions"):
            files.setdefault(folder / place / "1.jsonl", b"")
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        progress = -BASE // 2 if timeline.progress is None else timeline.progress
        self._until = f"[end_of_input]\ncomplete_until = {BASE + progress}\n"
        text = self._with_end(configured.toml(rules, bound))
        (folder / "pipeline.toml").write_text(text)
        self.pipeline: Pipeline = load(folder / "pipeline.toml")

    def _with_end(self, text: str) -> str:
        return text.replace("[end_of_input]\n", self._until)

    def note_starts(self, rules: Sequence[Rules]) -> None:
        """Writes down that the job was started with each of these, in this order."""
        for n, of_start in enumerate(rules):
            path = self._folder / f"start-{n}.toml"
            path.write_text(self._with_end(configured.toml(of_start)))
            run = runs.started(f"{n:032x}", "restore" if n else "fresh", None)
            runs.note(str(self._folder / "out"), run, document(path))

    def write(self, outcome: Outcome) -> None:
        """Raises ValueError for an outcome that names a record that the timeline has not."""
        waiting: dict[object, list[_Line]] = defaultdict(list)
        for line in self._lines:
            waiting[self._identity(line.record)].append(line)
        rejected = []
        for rejection in outcome.rejected:
            found = waiting[rejection.identity]
            if not found:
                raise ValueError(f"no such record: {rejection}")
            line = found.pop()  # the first to arrive wins
            time = BASE + line.record.event_time
            rejected.append(
                {
                    "stream": rejection.stream,
                    "reason": rejection.reason,
                    "origin": line.origin,
                    "offset": line.offset,
                    "record_time": time,
                    "raw": line.raw,
                }
            )
        accepted: dict[object, list[Request]] = defaultdict(list)
        for lines in waiting.values():
            for line in lines:
                request = line.record
                if isinstance(request, Request):
                    key = (request.user_id, request.request_id, request.event_time)
                    accepted[key].append(request)
        self._table("samples", list(self._rows(outcome, accepted)))
        self._table("late_actions", list(self._late(outcome, accepted)))
        self._table("rejected", rejected)

    def _identity(self, record: Request | Action) -> object:
        return record if isinstance(record, Request) else _exact(record, self._rules)

    def _rows(
        self, outcome: Outcome, accepted: dict[object, list[Request]]
    ) -> Iterable[dict[str, Any]]:
        for row in outcome.rows:
            # several, if that another one was rejected is left out
            request = next(
                request
                for request in accepted[row.user_id, row.request_id, row.event_time]
                if request.items[row.position : row.position + 1] == (row.item_id,)
            )
            values: dict[str, Any] = {
                "sample_id": oracle.sample_id(request, row.position),
                "request_id": row.request_id,
                "user_id": row.user_id,
                "item_id": row.item_id,
                "position": row.position,
                "event_time": BASE + row.event_time,
                "observed_ms": row.observed_ms,
                "revision": row.revision,
                "kind": row.kind,
                "exposed": row.exposed,
                "sampling_rate": row.sampling_rate,
            }
            values |= context_features(request) | item_features(request, row.position)
            for kind, label in row.labels.items():
                values[f"label_{kind}"] = label
                values[f"delay_{kind}_ms"] = row.delays[kind]
                values[f"mature_{kind}"] = row.mature[kind]
            yield values

    def _late(
        self, outcome: Outcome, accepted: dict[object, list[Request]]
    ) -> Iterable[dict[str, Any]]:
        by_id = defaultdict(list)
        for request in chain.from_iterable(accepted.values()):
            by_id[request.request_id, request.event_time].append(request)
        for late in outcome.late:
            request_id, position = late.sample
            identity = late.identity
            found = by_id[request_id, late.request_time]
            if self._rules.key == "user_id":
                found = [r for r in found if r.user_id == identity.key]
            request = found[0]
            yield {
                "sample_id": oracle.sample_id(request, position),
                "request_id": request_id,
                "user_id": request.user_id,
                "item_id": identity.item_id,
                "position": position,
                "request_time": BASE + late.request_time,
                "event_id": identity.event_id,
                "action": identity.action,
                "value": identity.value,
                "event_time": BASE + identity.event_time,
                "delay_ms": late.delay,
                "reason": late.reason,
            }

    def _table(self, name: str, rows: list[dict[str, Any]]) -> None:
        layout = {
            "samples": samples.samples(self.pipeline.schema, self.pipeline.kinds),
            "late_actions": samples.LATE_ACTIONS,
            "rejected": samples.REJECTED,
        }[name]
        time = {"samples": "event_time", "late_actions": "request_time", "rejected": "record_time"}
        table = self._folder / "out" / name
        for path in table.glob("*/*/part-0.parquet"):
            path.unlink()
        by_hour: dict[int, list[dict[str, Any]]] = defaultdict(list)
        by_hour[BASE // _HOUR] = []
        for row in rows:
            by_hour[row[time[name]] // _HOUR].append(row)
        for hour, of_hour in by_hour.items():
            folder = table / "dt=2023-11-15" / f"hr={9 + hour - BASE // _HOUR:02}"
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(of_hour, layout), folder / "part-0.parquet")


def _request(request: Request) -> dict[str, Any]:
    return {
        "request_id": request.request_id,
        "user_id": request.user_id,
        "event_time": BASE + request.event_time,
        "context": context_features(request),
        "items": [
            {"item_id": item, "features": _known(item_features(request, position))}
            for position, item in enumerate(request.items)
        ],
    }


def _action(action: Action) -> dict[str, Any]:
    moved = replace(action, event_time=BASE + action.event_time)
    return _known({name: getattr(moved, name) for name in moved.__dataclass_fields__})


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
