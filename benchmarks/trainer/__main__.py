"""``python -m benchmarks.trainer``: measures, prints tables, writes ``results.md`` beside it.

Every measurement is a process of its own. This project and Vowpal Wabbit take turns, so that
whatever else the machine does meets both. What was measured is kept in ``results.json``.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.reporting import machine, rich_table
from benchmarks.trainer import child, moving, peer_input, plan, plots, report
from benchmarks.trainer.data import FTRL, Traffic, folder_of
from benchmarks.trainer.plan import Place
from benchmarks.trainer.spec import RecoverySpec, TableSpec

HERE = Path(__file__).resolve().parent
WHAT = ("speed", "quality", "steps", "staleness", "recovery", "table", "ring")
#: Samples: all, of the quick run, of the runs for staleness, and to warm up with.
ROWS, QUICK_ROWS, WARM_ROWS = 2_000_000, 200_000, 16_384
SMALL_ROWS, QUICK_SMALL_ROWS = 100_000, 65_536
#: Of the alphas and stalenesses.
QUICK_ALPHAS, QUICK_STALENESS = (0.2, 0.5), ("bsp", "ssp-0", "ssp-4", "async")
#: For the kills there must be enough of them: a new server needs some seconds.
KILLS, QUICK_KILLS = 5, 2
TABLE_ROWS, QUICK_TABLE_ROWS = 5_000_000, 500_000
_NOTHING: dict[str, Any] = {name: [] for name in WHAT}

#: A part of `results.json`, what is said of the run there, the module, the spec.
Step = tuple[str, dict[str, Any], str, Any]


def main() -> int:
    """Run what the arguments ask for, and write the tables. Returns the exit code."""
    arguments = _arguments()
    console = Console(highlight=False)
    raw_path = arguments.out / "results.json"
    raw = dict(_NOTHING)
    if arguments.keep and raw_path.exists():
        raw |= json.loads(raw_path.read_text())
    what = arguments.what or WHAT
    started = time.monotonic()
    place, traffic = _place(arguments, console)
    raw |= {
        "machine": machine(),
        "rows": traffic.rows,
        "alpha": FTRL["alpha"],
        "quick": arguments.quick,
    }
    steps = list(_steps(what, place, arguments))
    for name in {part for part, *_ in steps}:
        raw[name] = []
    if "ring" in what:
        raw["ring"] = [asdict(moving.moved(n)) for n in moving.SERVERS]
    failed = 0
    with _shown(console, len(steps)) as advance:
        for part, about, module, spec in steps:
            title = _title(part, about)
            advance(title, 0)
            try:
                result = about | child.run(module, spec)
                raw[part].append(result)
                console.print(f"{title}: {_line(result)}", markup=False)
                _save(raw_path, raw)
            except child.RunError as error:
                failed += 1
                console.print(f"{title}: {error}", style="red", markup=False, soft_wrap=True)
            advance(title, 1)
    _share_auc(raw["speed"])
    _save(raw_path, raw)
    made = report.tables(raw)
    drawn = plots.draw(raw, arguments.out)
    (arguments.out / "results.md").write_text(report.markdown(made, raw, drawn))
    for table in made:
        console.print(rich_table(table))
    if raw["speed"]:
        console.print(rich_table(report.summary(raw)))
    console.print(
        f"{time.monotonic() - started:.0f} s; written to {arguments.out / 'results.md'}",
        markup=False,
    )
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.trainer", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="small, and one round")
    parser.add_argument("--rows", type=int, help=f"samples ({ROWS:,}; quick: {QUICK_ROWS:,})")
    parser.add_argument("--rounds", type=int, help="how often each is measured (3; quick: 1)")
    parser.add_argument("--what", nargs="+", choices=WHAT, help="what to measure (all)")
    parser.add_argument("--only", nargs="+", help="of the speeds and stalenesses, those names only")
    parser.add_argument(
        "--keep", action="store_true", help="leave what results.json has of the other parts"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "sample-stitch-bench-trainer",
        help="where the samples are kept between runs (some hundred MB)",
    )
    parser.add_argument("--out", type=Path, default=HERE, help="where the results go")
    return parser.parse_args()


def _place(arguments: argparse.Namespace, console: Console) -> tuple[Place, Traffic]:
    rows = arguments.rows or (QUICK_ROWS if arguments.quick else ROWS)
    traffic = Traffic(rows)
    small = Traffic(min(rows, QUICK_SMALL_ROWS if arguments.quick else SMALL_ROWS))
    with console.status(f"making {traffic.rows:,} samples"):
        data = folder_of(arguments.cache, traffic)
        peer_input.make(traffic, data)
        place = Place(
            data,
            folder_of(arguments.cache, small),
            folder_of(arguments.cache, Traffic(WARM_ROWS, files=1, hours=1, seed=2)),
            peer_input.ids_needed(traffic),
        )
    return place, traffic


def _steps(what: tuple[str, ...], place: Place, arguments: argparse.Namespace) -> Iterator[Step]:
    quick = arguments.quick
    rounds = arguments.rounds or (1 if quick else 3)

    def wanted(name: str) -> bool:
        return not arguments.only or name in arguments.only

    if "speed" in what:
        speeds = {**plan.OURS, **plan.PEERS}
        for n in range(rounds):
            # none is always the first
            for name in plan.TURNS if n % 2 == 0 else plan.TURNS[::-1]:
                if wanted(name):
                    yield "speed", {"name": name, "round": n}, *speeds[name](place)
        if wanted("vw-text"):
            yield "speed", {"name": "vw-predicting", "round": 0}, *plan.VW_PREDICTING(place)
    if "quality" in what:
        for alpha in QUICK_ALPHAS if quick else plan.ALPHAS:
            for name in plan.QUALITY:
                about = {"name": name, "alpha": alpha}
                yield "quality", about, *plan.quality(name, alpha)(place)
    if "steps" in what:
        yield "steps", {"name": "vw"}, *plan.STEP_VW(place)
        for consistency, workers, batch, per in product(
            plan.STEP_CONSISTENCIES, plan.STEP_WORKERS, plan.STEP_BATCHES, plan.STEPS
        ):
            if workers == 1 and consistency != "bsp":
                continue  # one worker waits for nobody
            about = {"name": per, "consistency": consistency, "workers": workers, "batch": batch}
            yield "steps", about, *plan.steps(per, consistency, workers, batch)(place)
    if "staleness" in what:
        for n in range(min(rounds, 2)):
            for name in QUICK_STALENESS if quick else plan.STALENESS:
                if wanted(name):
                    yield "staleness", {"name": name, "round": n}, *plan.STALENESS[name](place)
    folders = {"data": str(place.data)}
    if "recovery" in what:
        kills = QUICK_KILLS if quick else KILLS
        spec = RecoverySpec(**folders, warm=str(place.warm), kills=kills)
        yield "recovery", {}, "run_recovery", spec
    if "table" in what:
        rows, repeats = (QUICK_TABLE_ROWS, 3) if quick else (TABLE_ROWS, 5)
        yield "table", {}, "run_table", TableSpec(**folders, rows=rows, repeats=repeats)


def _share_auc(runs: list[dict[str, Any]]) -> None:
    """Vowpal Wabbit's AUC, which one run has, for those that learn the same."""
    for predicting in [run for run in runs if run["name"] == "vw-predicting"]:
        for run in runs:
            if run["name"] in plan.VW_SAME:
                run["auc"] = predicting["auc"]


def _title(part: str, about: dict[str, Any]) -> str:
    return " ".join([part, *(str(value) for value in about.values())])


def _line(result: dict[str, Any]) -> str:
    if "log_loss" in result:
        rate = result["rows"] / result["seconds"]
        return f"{rate:,.0f} samples/s, log loss {result['log_loss']:.4f}"
    if "stalls_s" in result:
        return f"{result['stalls_s']} s"
    return f"{result['wall_s']:.0f} s"


@contextmanager
def _shown(console: Console, total: int) -> Iterator[Callable[[str, int], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda title, more: bar.update(task, description=title, advance=more)


def _save(path: Path, raw: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(raw, indent=1) + "\n")


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("benchmarks.trainer: interrupted; nothing of it is running on", file=sys.stderr)
        sys.exit(130)
