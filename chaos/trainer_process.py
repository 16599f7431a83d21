"""The trainer's processes, each in a place of its own. Runs in the trainer's environment.

    python -m chaos.trainer_process coordinator|server|worker FOLDER LIFE ...
    python -m chaos.trainer_process samples FOLDER FILES
    python -m chaos.trainer_process compare CHECKPOINT CHECKPOINT [SERVING SERVING]

Each role imports what it needs only, because JAX and Ray take seconds.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos.trainer_plan import PLAN, Plan


def main(role: str, *arguments: str) -> int:
    """What one of these processes does; returns its exit code."""
    roles: dict[str, Callable[..., int]] = {
        "coordinator": _coordinate,
        "server": _serve,
        "worker": _work,
        "samples": _write_samples,
        "compare": _compare,
    }
    return roles[role](*arguments)


def _coordinate(folder: str, life: str) -> int:
    """The trainer's own command, with `chaos.trainer_places` instead of Ray."""
    from chaos import trainer_places
    from trainer import train

    plan = _plan_in(folder)
    trainer_places.take_over(Path(folder), life, plan)
    _hasten(plan)
    settings = [word for one in plan.settings for word in ("--set", one)]
    return train.main(["--config", str(Path(folder) / "trainer.toml"), *settings])


def _serve(folder: str, number: str, address: str, said: str) -> int:
    from trainer.server.process import ServerProcess

    plan = _plan_in(folder)
    _hasten(plan)
    if plan.plant:
        _named(plan.plant)()
    server = ServerProcess(int(number), address)
    hidden = Path(said).with_suffix(".new")
    hidden.write_text(server.address)
    hidden.replace(said)
    server.serve()
    return 0


def _work(folder: str, number: str, control: str, path: str) -> int:
    import msgspec

    from trainer.run.job import Job
    from trainer.run.worker import Worker

    plan = _plan_in(folder)
    made: Callable[[Job, int, str], Worker] = _named(plan.worker) if plan.worker else Worker
    _hasten(plan)
    job = msgspec.msgpack.decode(Path(path).read_bytes(), type=Job)
    made(job, int(number), control).run()
    return 0


def _write_samples(folder: str, files: str) -> int:
    from benchmarks.trainer import data

    rows = data.FILE_STEP * int(files)
    traffic = data.Traffic(rows, int(files), int(files), users=2_000, catalogue=1_000)
    data.write(traffic, Path(folder))
    return 0


def _compare(*folders: str) -> int:
    from chaos.trainer_parameters import compare

    print(json.dumps(compare(*map(Path, folders))))
    return 0


def _plan_in(folder: str) -> Plan:
    return Plan.of_json(json.loads((Path(folder) / PLAN).read_text()))


def _hasten(plan: Plan) -> None:
    """The times of the plan, in the modules that this process has imported."""
    for name, seconds in plan.times.items():
        module, _, constant = name.rpartition(".")
        if module in sys.modules:
            if not hasattr(sys.modules[module], constant):
                raise AttributeError(f"there is no {name}")
            setattr(sys.modules[module], constant, seconds)


def _named(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
