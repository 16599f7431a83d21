"""This project's trainer, in a process: ``python -m benchmarks.trainer.run_ours SPEC``."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.trainer.child import pin, tell
from benchmarks.trainer.spec import OursSpec


def main() -> int:
    """One measurement, as a process of its own: an `OursSpec` as JSON in, figures out."""
    spec = msgspec.json.decode(sys.argv[1], type=OursSpec)
    pin(spec.core)
    tell(**measured(spec))
    return 0


def measured(spec: OursSpec) -> dict[str, Any]:
    """One pass over the data after a warm-up.

    `seconds`: from before the first file is looked for to the end of the last batch. `cpu_s`: of
    this process in that time, all its threads; None where others compute as well.
    """
    # `train` sets what JAX is to be started with, so it comes first
    from benchmarks.trainer.sessions import coordinator_in, session_of
    from benchmarks.trainer.warming import warm_up

    began, ended = (0.0, 0.0), (0.0, 0.0)

    def batch_done(_: object) -> None:
        nonlocal ended
        ended = time.perf_counter(), time.process_time()

    session = session_of(spec, watch=batch_done)
    try:
        warm_up(session, Path(spec.warm))
        began = time.perf_counter(), time.process_time()
        session.run()
        stats = session.runner.stats()
    finally:
        session.runner.stop()
    p = session.progress
    (of_all,) = (m for m in session.tally.whole() if m.slice == "all")
    coordinator = coordinator_in(session)
    clocks = None if coordinator is None else coordinator.dispatcher.clocks
    return {
        "rows": p.rows,
        "seconds": ended[0] - began[0],
        "cpu_s": None if spec.servers else ended[1] - began[1],
        "log_loss": of_all.measures.log_loss,
        "normalized_entropy": of_all.measures.normalized_entropy,
        "auc": of_all.measures.auc,
        "keys": stats["rows"],
        "bytes": stats["bytes"],
        "keys_a_batch": p.keys / p.steps,
        "parts_s": p.seconds,
        "widest": None if clocks is None else clocks.widest,
        "held": None if clocks is None else clocks.held,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    sys.exit(main())
