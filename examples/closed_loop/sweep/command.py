"""The command: makes the runs that are missing, then writes the tables and the plots."""

from __future__ import annotations

import gc
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from examples.closed_loop.sweep import plots, report, results
from examples.closed_loop.sweep.cells import Cell, cells, other_cells

#: One process, one core: a run has no use for more, and several runs would take turns.
_ONE_CORE = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}


def plan(seeds: int) -> list[tuple[Cell, int]]:
    """All runs, so that a sweep that is stopped has whole seeds: first windows and policies."""
    runs = [(cell, seed) for seed in range(seeds) for cell in cells()]
    return [*runs, *((cell, seed) for seed in range(seeds) for cell in other_cells())]


def make_runs(path: Path, seeds: int, processes: int, minutes: float) -> int:
    """Make what is missing, for at most so many minutes. Returns how many runs were made."""
    os.environ.update(_ONE_CORE)
    known = {(m.cell, m.seed) for m in results.read(path)}
    runs = [run for run in plan(seeds) if run not in known]
    path.parent.mkdir(parents=True, exist_ok=True)
    until, made = time.monotonic() + 60 * minutes, 0
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn())
    with (
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress,
        ProcessPoolExecutor(processes, get_context("spawn")) as pool,
    ):
        task = progress.add_task("runs", total=len(runs))
        waiting = iter(runs)
        futures = {pool.submit(_timed, *run) for run in islice(waiting, processes)}
        while futures:
            done = next(as_completed(futures))
            futures.remove(done)
            results.append(path, done.result())
            made += 1
            progress.advance(task)
            run = next(waiting, None) if time.monotonic() < until else None
            if run is not None:
                futures.add(pool.submit(_timed, *run))
    return made


def _timed(cell: Cell, seed: int) -> results.Measured:
    began = time.process_time()
    # A run makes few cycles, and looking for them takes a quarter of its time.
    gc.disable()
    measured = results.measure(cell, seed)
    gc.collect()
    return msgspec.structs.replace(measured, seconds=round(time.process_time() - began, 2))


def main(
    out: Annotated[Path, typer.Option(help="Folder of the results, tables and plots.")] = Path(
        "out/sweep"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Worlds for each configuration.")] = 10,
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = os.cpu_count() or 1,
    minutes: Annotated[float, typer.Option(help="Start no run after so many minutes.")] = 1e6,
) -> None:
    """Run the closed loop over windows and policies. Runs that are in OUT already are kept."""
    make_runs(out / "results.jsonl", seeds, processes, minutes)
    measured = results.read(out / "results.jsonl")
    (out / "tables.md").write_text(report.whole(measured))
    plots.draw(report.by_cell(measured), out)
