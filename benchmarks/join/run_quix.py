"""One run of Quix Streams: ``python -m benchmarks.join.run_quix SPEC [state|join]``.

The last line is a JSON. The plans are described in `quix_plans`.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from quixstreams import Application
from quixstreams.sinks import BatchingSink, SinkBatch

from benchmarks.join.data import feature_names
from benchmarks.join.peers import Kafka, Stopwatch, scratch_name
from benchmarks.join.quix_plans import QuixPlan, Rows, rows_of
from benchmarks.join.spec import Spec

#: Without a record for this long, the run has lost something. Seconds.
_SILENCE_S = 60.0
_HOUR_MS = 3_600_000
#: Where a row has its event time.
_EVENT_TIME = 3


def run(spec: Spec, plan: QuixPlan) -> dict[str, float]:
    """Run to the end of the input; returns ``seconds`` and ``cpu_seconds``.

    Raises:
        ValueError: if the spec asks for what these plans cannot do.
        RuntimeError: if not all impressions came out.
    """
    if (spec.source, spec.partitions, spec.parallelism) != ("kafka", 1, 1):
        raise ValueError("Quix Streams is measured on Kafka, with one partition and one process")
    name = scratch_name(spec)
    with Kafka(spec.brokers).topic(f"{spec.topics}-due-{name}", 1) as due_topic:
        watch = Stopwatch(psutil.Process())
        app = Application(
            broker_address=spec.brokers,
            consumer_group=name,
            auto_offset_reset="earliest",
            state_dir=Path(spec.scratch) / "state",
            # Flink runs without checkpoints here, so the state is not backed up to Kafka either.
            use_changelog_topics=False,
            # It waits this long for 10,000 records; by default one second, which costs time only.
            consumer_poll_timeout=0.1,
            loglevel="WARNING",
        )
        sink = Samples(spec, app)
        rows_of(plan, spec, app, due_topic).sink(sink)
        app.run(timeout=_SILENCE_S)
        result = watch.result()
    if sink.rows != spec.impressions:
        raise RuntimeError(f"{sink.rows} of {spec.impressions} impressions came out")
    return result


def schema(spec: Spec) -> pa.Schema:
    """The columns of the samples."""
    doubles, strings = feature_names(spec.features)
    return pa.schema(
        [("request_id", pa.string()), ("item_id", pa.string())]
        + [("position", pa.int32()), ("event_time", pa.int64())]
        + [(name, pa.float64()) for name in doubles]
        + [(name, pa.string()) for name in strings]
        + [("label_click", pa.int8()), ("delay_click_ms", pa.int64())]
    )


class Samples(BatchingSink):  # type: ignore[misc]  # untyped here
    """Parquet files of one hour each, at each commit of the offsets (every 5 s by default)."""

    def __init__(self, spec: Spec, app: Application) -> None:
        """`app`: it is stopped when all impressions of the spec have come."""
        super().__init__()
        self.rows = 0
        self._impressions, self._app = spec.impressions, app
        self._folder = Path(spec.scratch) / "out" / "samples"
        self._files, self._schema = 0, schema(spec)

    def add(self, value: Rows, *rest: Any, **named: Any) -> None:
        """Keep some rows until the next commit."""
        super().add(value, *rest, **named)
        self.rows += len(value)
        if self.rows >= self._impressions:
            self._app.stop()

    def write(self, batch: SinkBatch) -> None:
        """Write what has come since the last commit."""
        by_hour: dict[int, Rows] = defaultdict(list)
        for item in batch:
            by_hour[item.value[0][_EVENT_TIME] // _HOUR_MS].extend(item.value)
        for hour, rows in by_hour.items():
            columns = zip(*rows, strict=True)
            arrays = [pa.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)]
            table = pa.Table.from_arrays(arrays, schema=self._schema)
            start = datetime.fromtimestamp(hour * _HOUR_MS / 1_000, timezone.utc)
            folder = self._folder / f"dt={start:%Y-%m-%d}" / f"hr={start:%H}"
            folder.mkdir(parents=True, exist_ok=True)
            hidden = folder / f".{self._files:06}"
            pq.write_table(table, hidden, compression="zstd")
            hidden.rename(folder / f"{self._files:06}.parquet")
            self._files += 1


def main() -> int:
    """One measurement, as a process of its own: a `Spec` as JSON in, seconds out."""
    spec = Spec.from_json(sys.argv[1])
    plan: QuixPlan = "join" if sys.argv[2:] == ["join"] else "state"
    print(json.dumps(run(spec, plan)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
