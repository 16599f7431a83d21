"""Joins the files of a pipeline without Flink: they are read and decoded in the order of the job,
and go through the pure core.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec

from jobs.pipeline.config import Pipeline, load
from jobs.pipeline.decoding import decode_settings
from jobs.pipeline.file_plan import of_pipeline
from schemas.events import ActionEvent, Progress, RequestBody, RequestEvent
from tests.core_runner import CoreRunner
from tests.timeline import Rules
from udfs.core import decode_batches
from udfs.core.decode_batches import ReadFiles
from udfs.core.join_core import Hold, Refused
from udfs.core.sample_rows import SampleWriter

_unpack_events = msgspec.msgpack.Decoder(
    tuple[bool, list[tuple[str, RequestEvent | ActionEvent | Progress, int]], Any]
).decode


@dataclass
class Joined:
    """What came out. `rows` and `rejected` have the columns of the tables that a job writes, as far
    as they are looked at.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


class _Runner(CoreRunner):
    """Takes decoded events, and notes the features of each request."""

    def __init__(self, pipeline: Pipeline) -> None:
        rules = pipeline.rules
        self.features: dict[tuple[str, int], dict[str, Any]] = {}
        #: Why requests were.
        self.refused: list[str] = []
        super().__init__(
            Rules(
                key=rules.key,
                windows={kind.name: kind.window_ms for kind in rules.kinds},
                labels=cast(Any, {kind.name: kind.label for kind in rules.kinds}),
                skew=rules.skew,
                lateness=rules.lateness,
                horizon=rules.horizon,
                exposure=rules.exposure,
            )
        )
        self.writer = SampleWriter(
            pipeline.schema, rules.kinds, rules.exposure, pipeline.negative_sampling
        )

    def take(self, key: str, event: RequestEvent | ActionEvent) -> None:
        """An event that arrives."""
        self.storage.current = key
        if isinstance(event, ActionEvent):
            decisions = self.join.action(key, event, self.watermark, self._trust())
            if not isinstance(decisions, Hold):
                self._perform(key, decisions)
            elif decisions.wake_at is not None:
                self._wake(decisions.wake_at, key)
            return
        self._note(event)
        verdict = self.join.request(key, event, self.watermark)
        if isinstance(verdict, Refused):
            self.refused.append(verdict.reason)
            return
        for at in verdict.wake_at:
            self._wake(at, key)

    def announce(self, watermark: int) -> None:
        """The watermark is there."""
        if watermark > self.watermark:
            self._advance(watermark)

    def _note(self, event: RequestEvent) -> None:
        body = msgspec.msgpack.decode(event.body, type=RequestBody)
        context, columns = map(msgspec.msgpack.decode, (body.context_names, body.column_names))
        for position in range(len(body.items)):
            values = dict(zip(context, body.context, strict=True))
            values |= {n: c[position] for n, c in zip(columns, body.columns, strict=True)}
            self.features.setdefault((event.request_id, position), values)


def joined(config: Path) -> Joined:
    """The samples of a pipeline that reads files, without its sinks."""
    pipeline = load(config)
    reader, runner, out = (
        ReadFiles(decode_settings(pipeline, ("beacon",))),
        _Runner(pipeline),
        Joined(),
    )
    reader.open()
    reached: dict[str, int] = {}
    for number, chunk in enumerate(of_pipeline(pipeline).chunks):
        reply = reader.run(msgspec.msgpack.encode([[msgspec.json.encode(chunk).decode(), number]]))
        more = True
        while more:
            more, events, (counts, _, side) = _unpack_events(reply)
            for name, count in counts:
                out.counts[name] = out.counts.get(name, 0) + count
            for which, values in side:
                columns = decode_batches.SIDE_OUTPUTS[which].columns
                out.rejected.append(dict(zip(columns, values, strict=True)))
            for key, event, clock in events:
                if isinstance(event, Progress):
                    reached[event.source] = max(event.time, reached.get(event.source, 0))
                else:
                    runner.take(key, event)
                runner.announce(clock)
            reply = reader.more() if more else b""
    runner.progress = min(reached.values()) if len(reached) == len(pipeline.sources.each) else None
    runner.announce(2**63 - 1)
    for row in runner.rows:
        values = {"request_id": row.request_id, "user_id": row.user_id, "item_id": row.item_id}
        out.rows.append(
            {
                **values,
                "position": row.position,
                "event_time": row.event_time,
                "exposed": row.exposed,
            }
            | runner.features[row.request_id, row.position]
            | {f"label_{kind}": label for kind, label in row.labels.items()}
            | {f"delay_{kind}_ms": delay for kind, delay in row.delays.items()}
        )
    out.rejected += [{"stream": "features", "reason": reason} for reason in runner.refused]
    out.rejected += [{"stream": r.stream, "reason": r.reason} for r in runner.rejected]
    return out
