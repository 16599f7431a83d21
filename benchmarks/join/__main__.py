"""``python -m benchmarks.join``: measures, prints tables, writes ``benchmarks/join/results.md``.

Every run is a process of its own. The plans take turns, so that whatever else the machine does
meets all of them. What was measured is kept in ``results.json`` beside the tables, and what it has
already is not measured again with ``--keep``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from benchmarks.join import cases, delay, kept, large_state, latency, measure, plots, report
from benchmarks.join.cases import Setting
from benchmarks.join.data import input_folder
from benchmarks.join.spec import PLANS, Backend, Part, Plan, Source, Spec
from benchmarks.join.topics import Topics
from benchmarks.reporting import machine, rich_table

HERE = Path(__file__).resolve().parent
PROCESSOR: str = machine()["processor"]
#: Longer than any input: nothing settles.
FOREVER_MS = 36_000_000
STATE_REQUESTS = 10_000
PARTS = ("speed", "slower", "growth", "state", "delay", "latency", "large")


def main() -> int:
    """Run what the arguments ask for, and write the tables. Returns the exit code."""
    arguments = _arguments()
    console = Console(highlight=False)
    raw_path: Path = arguments.out / "results.json"
    raw: dict[str, Any] = {name: [] for name in ("speed", "growth", "state", "latency", "large")}
    raw["delay"] = {}
    if arguments.keep and raw_path.exists():
        raw |= json.loads(raw_path.read_text())
        raw["speed"] = kept.readable(raw["speed"])
    what = arguments.what or (("speed", "state") if arguments.quick else PARTS)
    started = time.monotonic()
    with Topics(arguments.cache / "kafka").running() as topics:
        inputs = _Inputs(arguments.cache, topics)

        def save() -> None:
            raw_path.parent.mkdir(parents=True, exist_ok=True)
            raw_path.write_text(json.dumps(raw, indent=1) + "\n")

        def runs(settings: Iterable[Setting], into: list[dict[str, Any]]) -> None:
            for repeat, spec in cases.in_turns(_selected(settings, arguments)):
                if repeat < kept.runs_done(kept.on(PROCESSOR, into), spec):
                    continue
                into.append(_kept(measure.speed(inputs.of(spec))))
                console.print(report.line(into[-1]), soft_wrap=True)
                save()
                if (told := kept.disagreement(into)) is not None:
                    raise measure.RunError(told)

        if "speed" in what:
            runs(cases.QUICK if arguments.quick else cases.SPEED, raw["speed"])
        if "slower" in what:
            runs(cases.SLOWER, raw["speed"])
        if "growth" in what:
            runs((s for g in cases.GROWTH for _, s in g.sizes), raw["growth"])
        if "state" in what:
            raw["state"] = []
            for part, features in ((p, f) for p, f in _STATE if not arguments.quick or f == 8):
                for plan in PLANS:
                    spec = Spec(
                        part, plan, "hashmap", STATE_REQUESTS, features, 20, FOREVER_MS, "state"
                    )
                    size = measure.state_bytes(inputs.of(spec)) / spec.impressions
                    raw["state"].append([part, features, plan, size])
                    console.print(f"state {part} {features} {plan}: {size:.0f} bytes")
                    save()
        if "delay" in what:
            for plan in PLANS:
                raw["delay"][plan] = asdict(delay.delays(plan))
                console.print(f"delay {plan}: {raw['delay'][plan]}")
                save()
        if "latency" in what:
            rate = arguments.rate or report.half_load(kept.on(PROCESSOR, raw["speed"]))
            if rate is None:
                raise measure.RunError("latency: measure the speed first, or give --rate")
            for load in latency.LOADS:
                done = sum(
                    one["policy"] == load.policy for one in kept.on(PROCESSOR, raw["latency"])
                )
                for _ in range(done, arguments.repeat or 3):
                    measured = latency.measured(load, rate // load.versions, topics)
                    raw["latency"].append(asdict(measured) | {"processor": PROCESSOR})
                    console.print(report.latency_line(raw["latency"][-1]))
                    save()
        if "large" in what:
            for pending in large_state.SIZES:
                for options in large_state.OPTIONS:
                    if not any(
                        (one["options"], one["pending"]) == (options, pending)
                        for one in kept.on(PROCESSOR, raw["large"])
                    ):
                        measured_large = asdict(large_state.measured(options, pending))
                        raw["large"].append(measured_large | {"processor": PROCESSOR})
                        console.print(f"large state, {options}: {raw['large'][-1]}")
                        save()
    console.print()
    tables = report.tables(raw)
    for table in tables[:3]:
        console.print(rich_table(report.brief(table)))
    drawn = plots.draw(raw["growth"], arguments.out)
    drawn += plots.draw_large(raw["large"], arguments.out)
    (arguments.out / "results.md").write_text(report.markdown(tables, drawn, raw))
    console.print(
        f"{time.monotonic() - started:.0f} s; all tables are in {arguments.out / 'results.md'}"
    )
    return 0


_STATE: tuple[tuple[Part, int], ...] = (("alone", 1), ("whole", 8), ("whole", 40))


class _Inputs:
    """Where the input of a run is, made on first use."""

    def __init__(self, cache: Path, topics: Topics) -> None:
        self._cache, self._topics = cache, topics

    def of(self, spec: Spec) -> Spec:
        """The spec with its input."""
        if spec.part == "alone":
            return spec
        files = input_folder(self._cache, spec)
        if spec.source == "files":
            return replace(spec, data=str(files))
        return replace(spec, topics=self._topics.filled(spec, files), brokers=self._topics.servers)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.join", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, on the heap, one run each")
    parser.add_argument("--repeat", type=int, help="runs of each plan at each setting")
    parser.add_argument("--backend", choices=get_args(Backend), help="only this state backend")
    parser.add_argument("--source", choices=get_args(Source), help="only input from there")
    parser.add_argument("--plan", choices=get_args(Plan), nargs="+", help="only these plans")
    parser.add_argument(
        "--what",
        nargs="+",
        choices=PARTS,
        help="what to measure (all; with --quick speed and state)",
    )
    parser.add_argument("--rate", type=int, help="requests/s of the latency (half of the speed)")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="go on from results.json: only the runs that it lacks (after an interruption, say)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "sample-stitch-bench-input",
        help="where the input is kept between runs (some GB)",
    )
    parser.add_argument("--out", type=Path, default=HERE, help="where the results go")
    return parser.parse_args()


def _selected(settings: Iterable[Setting], arguments: argparse.Namespace) -> list[Setting]:
    chosen = []
    for setting in settings:
        plans = tuple(p for p in setting.plans if not arguments.plan or p in arguments.plan)
        fits = (not arguments.backend or setting.backend == arguments.backend) and (
            not arguments.source or setting.source == arguments.source
        )
        if fits and plans:
            repeats = arguments.repeat or setting.repeats
            chosen.append(replace(setting, plans=plans, repeats=repeats))
    return chosen


def _kept(result: measure.Result) -> dict[str, Any]:
    """Without the places where things lay."""
    spec = replace(result.spec, data="", scratch="", port=0, brokers="", topics="")
    return (
        asdict(spec)
        | asdict(result.watched)
        | {
            "seconds": result.seconds,
            "rate": result.rate,
            "rows": result.rows,
            "clicks": result.clicks,
            "processor": PROCESSOR,
        }
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except measure.RunError as error:
        print(f"benchmarks.join: {error}", file=sys.stderr)
        sys.exit(1)
