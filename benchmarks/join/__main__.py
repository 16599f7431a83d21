"""``python -m benchmarks.join``: measures, prints tables, writes ``benchmarks/join/results.md``.

Every run is a process of its own. The plans take turns, so that whatever else the machine does
meets all of them. What was measured is kept in ``results.json`` beside the tables.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from benchmarks.join import delay, kept, measure, report
from benchmarks.join.data import input_folder
from benchmarks.join.spec import PLANS, Backend, Part, Spec
from benchmarks.reporting import rich_table

HERE = Path(__file__).resolve().parent
#: From the first request to the last, and the window: 37.5 % of the input is pending at a time.
SPAN_MS, WINDOW_MS = 1_600_000, 600_000
#: Longer than any input: nothing settles.
FOREVER_MS = 36_000_000
STATE_REQUESTS = 10_000


@dataclass(frozen=True)
class Setting:
    """What the three plans are compared at."""

    part: Part
    backend: Backend
    features: int
    requests: int
    repeats: int


DEFAULT = (
    Setting("alone", "hashmap", 1, 50_000, 3),
    Setting("whole", "hashmap", 8, 50_000, 3),
    Setting("whole", "hashmap", 40, 15_000, 3),
    Setting("alone", "rocksdb", 1, 30_000, 1),
    Setting("whole", "rocksdb", 8, 30_000, 1),
    Setting("whole", "rocksdb", 40, 12_000, 1),
)


def main() -> int:
    """Run what the arguments ask for, and write the tables. Returns the exit code."""
    arguments = _arguments()
    console = Console(highlight=False)
    cache = arguments.cache
    raw_path = arguments.out / "results.json"
    raw: dict[str, Any] = {"speed": [], "state": [], "delay": {}}
    if arguments.keep and raw_path.exists():
        raw = json.loads(raw_path.read_text())
    started = time.monotonic()
    settings = [s for s in DEFAULT if not arguments.backend or s.backend == arguments.backend]
    if arguments.quick:
        settings = [
            replace(s, requests=s.requests // 6, repeats=1)
            for s in settings
            if s.backend == "hashmap" and s.features != 40
        ]
    what = arguments.what or ("speed", "state") + (() if arguments.quick else ("delay",))
    if arguments.repeat:
        settings = [replace(s, repeats=arguments.repeat) for s in settings]
    if "speed" in what:
        for spec in _in_turns(settings, cache, list(raw["speed"])):
            result = measure.speed(spec)
            raw["speed"].append(_kept(result))
            console.print(
                f"{spec.part:5} {spec.backend:7} {spec.features:2} features  {spec.plan:8} "
                f"{result.rate:9,.0f} impressions/s  {result.rows:,} rows {result.clicks:,} clicks"
            )
            _save(raw_path, raw)
            if (told := kept.disagreement(raw["speed"])) is not None:
                raise measure.RunError(told)
    if "state" in what:
        raw["state"] = []
        for part, features in _state_settings(settings):
            for plan in PLANS:
                spec = Spec(
                    part, plan, "hashmap", STATE_REQUESTS, features, 20, FOREVER_MS, "state"
                )
                size = measure.state_bytes(_with_input(spec, cache))
                raw["state"].append([part, features, plan, size / spec.impressions])
                console.print(
                    f"state {part} {features} {plan}: {size / spec.impressions:.0f} bytes"
                )
                _save(raw_path, raw)
    if "delay" in what:
        for plan in PLANS:
            raw["delay"][plan] = asdict(delay.delays(plan))
            console.print(f"delay {plan}: {raw['delay'][plan]}")
            _save(raw_path, raw)
    console.print()
    tables = report.tables(raw)
    for table in tables:
        console.print(rich_table(table))
    (arguments.out / "results.md").write_text(report.markdown(tables))
    console.print(f"{time.monotonic() - started:.0f} s; written to {arguments.out / 'results.md'}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.join", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, heap and 8 features only")
    parser.add_argument("--repeat", type=int, help="runs of each plan at each setting")
    parser.add_argument("--backend", choices=get_args(Backend), help="only this state backend")
    parser.add_argument(
        "--what",
        nargs="+",
        choices=("speed", "state", "delay"),
        help="what to measure (all; with --quick not the delay)",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="go on from results.json: only the runs that it lacks (after an interruption, say)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "sample-stitch-bench-input",
        help="where the input is kept between runs (some hundred MB)",
    )
    parser.add_argument("--out", type=Path, default=HERE, help="where the results go")
    return parser.parse_args()


def _in_turns(settings: list[Setting], cache: Path, done: list[dict[str, Any]]) -> Iterator[Spec]:
    """All runs that are not `done`; one repeat of everything before the next."""
    for repeat in range(max(s.repeats for s in settings)):
        for s in settings:
            if repeat >= s.repeats:
                continue
            # no plan always goes first
            for i in range(len(PLANS)):
                plan = PLANS[(i + repeat) % len(PLANS)]
                step = SPAN_MS // s.requests
                spec = Spec(s.part, plan, s.backend, s.requests, s.features, step, WINDOW_MS)
                if repeat >= kept.runs_done(done, spec):
                    yield _with_input(spec, cache)


def _state_settings(settings: list[Setting]) -> list[tuple[Part, int]]:
    return list(dict.fromkeys((s.part, s.features) for s in settings))


def _with_input(spec: Spec, cache: Path) -> Spec:
    return replace(spec, data=str(input_folder(cache, spec))) if spec.part == "whole" else spec


def _kept(result: measure.Result) -> dict[str, Any]:
    """Without the places where things lay."""
    spec = replace(result.spec, data="", scratch="", port=0)
    watched = asdict(result.watched)
    return (
        asdict(spec)
        | watched
        | {
            "seconds": result.seconds,
            "rate": result.rate,
            "rows": result.rows,
            "clicks": result.clicks,
        }
    )


def _save(path: Path, raw: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except measure.RunError as error:
        print(f"benchmarks.join: {error}", file=sys.stderr)
        sys.exit(1)
