"""The metrics as Parquet: one row per window, action and value of a slice."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from configuration.stores import Folder
from trainer.disk import naming, replacing
from trainer.evaluation.measures import Measures
from trainer.evaluation.tally import Labels, Metric, Tally

#: The place of the file, under a run's output folder.
METRICS = Path("evaluation/metrics.parquet")

#: `window_start`: epoch ms of event time; the window is `window_ms` wide. The others: `Metric`, and
#: `Measures`; null where a measure is not defined.
SCHEMA = pa.schema(
    [
        pa.field("window_start", pa.int64(), nullable=False),
        pa.field("window_ms", pa.int64(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("slice", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("ctr", pa.float64(), nullable=False),
        pa.field("prediction", pa.float64(), nullable=False),
        pa.field("log_loss", pa.float64(), nullable=False),
        pa.field("normalized_entropy", pa.float64()),
        pa.field("calibration", pa.float64()),
        pa.field("auc", pa.float64()),
    ]
)


def write_metrics(tally: Tally, folder: Folder, labels: Labels | None = None) -> Folder:
    """Write `METRICS` under `folder`. A reader sees the old file or the new one.

    Returns its path. Raises WriteError.
    """
    path = folder / METRICS
    with naming(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        pq.write_table(as_table(tally, labels), file, compression="zstd")
    return path


def as_table(tally: Tally, labels: Labels | None = None) -> pa.Table:
    """The metrics of each window, with the columns of `SCHEMA`."""
    rows = [_row(metric, tally.layout.window_ms) for metric in tally.metrics(labels)]
    return pa.Table.from_pylist(rows, SCHEMA)


def _row(metric: Metric, window_ms: int) -> dict[str, object]:
    measures = {name: getattr(metric.measures, name) for name in Measures.__struct_fields__}
    return {
        "window_start": metric.window,
        "window_ms": window_ms,
        "action": metric.action,
        "slice": metric.slice,
        "value": metric.value,
        **measures,
    }
