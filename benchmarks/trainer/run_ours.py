"""This project's trainer, in a process: ``python -m benchmarks.trainer.run_ours SPEC``."""

from __future__ import annotations

import resource
import sys
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
    """One pass over the data after a warm-up; `seconds` are those in which batches were done."""
    # `train` sets what JAX is to be started with, so it comes first
    from benchmarks.trainer.sessions import coordinator_in, session_of
    from benchmarks.trainer.warming import warm_up

    session = session_of(spec)
    try:
        warm_up(session, Path(spec.warm))
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
        "seconds": p.busy_s,
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
