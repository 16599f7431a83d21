"""Memory, disk, wire of a table: ``python -m benchmarks.trainer.run_table SPEC``."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from benchmarks.trainer.child import tell
from benchmarks.trainer.spec import OursSpec, TableSpec

if TYPE_CHECKING:
    from trainer.run.local import LocalRunner

_PUSH = 100_000
_LOOK_S = 0.001
#: Rows that say enough of the growth: each step of it is by a quarter, whatever the size.
_GROWN = 1_000_000
#: Values of an embedding, in the model that has them.
EMBEDDING = 16


def main() -> int:
    """One measurement, as a process of its own: a `TableSpec` as JSON in, figures out."""
    spec = msgspec.json.decode(sys.argv[1], type=TableSpec)
    tell(**measured(spec))
    return 0


def measured(spec: TableSpec) -> dict[str, Any]:
    """`disk`: of the table as trained, and of one with `spec.rows` random keys."""
    from benchmarks.trainer.loopback import wire_bytes
    from benchmarks.trainer.sessions import session_of
    from trainer.run.local import LocalRunner

    session = session_of(OursSpec(data=spec.data, warm=spec.data, scratch=spec.scratch))
    session.run()
    runner = session.runner
    assert isinstance(runner, LocalRunner)
    folder = Path(spec.scratch) / "saved"
    disk = [_disk(runner, folder, spec.repeats)]
    runner.start([_random_rows(runner, spec.rows)])
    disk.append(_disk(runner, folder, spec.repeats))
    runner.stop()
    grown = min(spec.rows, _GROWN)
    return {
        "disk": disk,
        "wire": wire_bytes(runner.job, session.ledger),
        "memory": {"lr": _memory(grown, 0), "fm": _memory(grown, EMBEDDING)},
    }


def _disk(runner: LocalRunner, folder: Path, repeats: int) -> dict[str, Any]:
    """Written, flushed; read, checked, made a table of. `pause`: training would stand still."""
    from trainer import checkpoint

    pauses, writes, reads, size = [], [], [], 0
    for _ in range(repeats):
        shutil.rmtree(folder, ignore_errors=True)
        began = time.perf_counter()
        written = runner.checkpoint(checkpoint.begin(folder, 0))
        pauses.append(time.perf_counter() - began)
        while (files := written()) is None:
            time.sleep(_LOOK_S)
        writes.append(time.perf_counter() - began)
        size = sum(file.bytes for file in files)
        manifest = checkpoint.Manifest(0, runner.job.spec, list(files), "ssp", 1, {})
        saved = checkpoint.finish(folder / ".step-000000000000", manifest, 1)
        began = time.perf_counter()
        runner.start(checkpoint.read_shards(saved, checkpoint.read_manifest(saved)))
        reads.append(time.perf_counter() - began)
    rows = runner.stats()["rows"]
    return {"rows": rows, "bytes": size, "pause_s": pauses, "write_s": writes, "read_s": reads}


def _random_rows(runner: LocalRunner, rows: int) -> Any:
    from trainer.server.shard import Shard

    shard = Shard(runner.job.spec, contributions=None, has_dense=True)
    _fill(shard.tables[0], rows)
    return shard.snapshot()


def _fill(table: Any, rows: int) -> None:
    rng = np.random.default_rng(0)
    while table.rows < rows:
        size = min(_PUSH, rows - table.rows)
        keys = np.unique(rng.integers(1, 2**64, size, np.uint64))
        gradients = rng.standard_normal((len(keys), table.spec.width)).astype(np.float32)
        table.push(keys, gradients, None, 1_700_000_000)


def _memory(rows: int, embedding: int) -> dict[str, float]:
    """Bytes a row of a table that has grown to so many rows, and the least and most on its way.

    FTRL for the linear weight, AdaGrad for an embedding: the trainer's defaults.
    """
    from trainer.spec import AdaGrad, Ftrl, Segment
    from trainer.spec import TableSpec as Layout
    from trainer.table.table import Table

    segments = [Segment("linear", 1, Ftrl())]
    if embedding:
        segments.append(Segment("embedding", embedding, AdaGrad(), 0.01))
    table = Table(Layout("t0", tuple(segments)), 0)
    sizes: list[float] = []
    step = max(1, rows // 50)
    while table.rows < rows:
        _fill(table, min(rows, table.rows + step))
        if table.rows > rows // 2:
            sizes.append(table.nbytes / table.rows)
    return {
        "values": 1 + embedding,
        "mean": float(np.mean(sizes)),
        "least": min(sizes),
        "most": max(sizes),
    }


if __name__ == "__main__":
    sys.exit(main())
