"""Both operators of batches over scripted records, watermarks and watermark statuses.

    python -m tests.flink.status_job FOLDER

The folder has a `pipeline.toml`, and a `script.txt` in the words of `tests/jvm/Statuses.java`. What
was heard behind the operators is then in `records.txt` and `keyed.txt`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from jobs.pipeline import environment
from jobs.pipeline.config import load
from schemas import sql

OF_TESTS = Path(__file__).resolve().parents[1] / "jvm"
_pack, _unpack = msgspec.msgpack.encode, msgspec.msgpack.decode
NO_REPORTS = ((), (), ())


class SayRecords:
    """A host of `udfs/jvm/RecordBatches.java`: each text is key and event."""

    def open(self) -> None:
        """Nothing to open."""

    def run(self, batch: bytes) -> bytes:
        said = [(text, text, 0) for (text,) in _unpack(batch)]
        return _pack((False, said, NO_REPORTS))


class SayEvents:
    """A host of `udfs/jvm/KeyedBatches.java`: the samples are the events."""

    def open(self, reader: Any) -> None:
        """Nothing to open."""

    def run(self, batch: bytes) -> bytes:
        _, _, _, steps = _unpack(batch)
        samples = [event.encode() for _, _, event in steps if event is not None]
        return _pack(((), samples, 0, NO_REPORTS))


def main(folder: Path) -> None:
    environment.prepare_process(folder / "_logs")
    pipeline = load(folder / "pipeline.toml", [f"output.path={folder / 'out'}"])
    from jobs.pipeline import graph, sources
    from udfs.operators import batches, jvm, side_outputs

    # so large and so long that only time and its status end a batch
    limits = batches.Limits(delay_ms=3_600_000, steps=1_000_000)
    hosted: Any = {"counters": ["said"], "side": [side_outputs.REJECTED], "limits": limits}

    def of_tests(stream: Any, operator: str, output_type: Any, *references: str, uid: str) -> Any:
        ours: Any = jvm
        ours._SOURCES, kept = OF_TESTS, ours._SOURCES
        try:
            return jvm.TransformedStream(stream, operator, output_type, references, uid=uid)
        finally:
            ours._SOURCES = kept

    env, tables = environment.stream_environment(pipeline)
    options = {"connector": "filesystem", "path": str(folder / "script.txt"), "format": "raw"}
    tables.execute_sql(f"CREATE TEMPORARY TABLE script (v STRING) WITH ({sql.options(options)})")
    rows = batches.rows_of(tables, "SELECT v FROM script", name="script")
    timed = of_tests(rows, "Statuses", rows.getType(), uid="statuses")
    said = batches.records(
        timed._j_data_stream, SayRecords(), uid="records", columns="s", by_clock=False, **hosted
    )
    keyed_type = batches.keyed_type().get_java_type_info()
    heard = of_tests(
        said._j_data_stream, "Heard", keyed_type, str(folder / "records.txt"), uid="heard"
    )
    joined = batches.keyed(
        sources.keyed(heard),
        SayEvents(),
        uid="keyed",
        entries="entries",
        log="log",
        only_own_entry=True,
        deadline_span=1,
        **hosted,
    )
    of_tests(
        joined._j_data_stream, "Heard", batches.packed_type(), str(folder / "keyed.txt"), uid="end"
    )
    graph.Job("statuses", env).start().get_job_execution_result().result()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
