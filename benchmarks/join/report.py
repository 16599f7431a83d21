"""What was measured, as tables for the console and for Markdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

from benchmarks.join import large_state
from benchmarks.join.cases import BEST, GROWTH, Growth
from benchmarks.join.flink_options import HEAP, MANAGED_MB, VISIBLE_EVERY_S
from benchmarks.join.kept import place_of, setting_of
from benchmarks.join.spec import ITEMS, OURS, PAYLOAD_BYTES, PLANS, Plan
from benchmarks.reporting import Table, machine

NAMES = {
    "ours": "this project",
    "apart": "with separate_sink",
    "over": "SQL OVER window",
    "interval": "SQL interval join",
    "spark": "Spark",
    "quix": "Quix Streams",
}
#: The kinds of threads that work on records; their CPU is the headline.
WORKING = ("source", "join and sink", "sink", "RocksDB")
BACKENDS = {"hashmap": "heap", "rocksdb": "RocksDB"}
Runs = list[dict[str, Any]]


def work(run: dict[str, Any]) -> float:
    """CPU seconds of the threads that work on records."""
    return float(sum(run["cpu"].get(kind, 0.0) for kind in WORKING))


def half_load(runs: Runs) -> int | None:
    """Half of the requests a second that ours reads from one partition of Kafka; None without."""
    rates = [
        run["rate"] / run["items"]
        for run in runs
        if (run["plan"], run["source"], run["partitions"], run["backend"], run["features"])
        == ("ours", "kafka", 1, "hashmap", 8)
    ]
    return round(median(rates) / 2) if rates else None


def line(run: dict[str, Any]) -> str:
    """A finished run, for the console."""
    return (
        f"{_label(run)}, {BACKENDS[run['backend']]}  {run['plan']:8}"
        f" {work(run) / run['requests'] * 1e6:8,.0f} us/request {run['rate']:9,.0f} impressions/s"
        f"  {run['seconds']:.0f} s  {run['rows']:,} rows {run['clicks']:,} clicks"
    )


def latency_line(one: dict[str, Any]) -> str:
    """A finished measurement of the latency, for the console."""
    return (
        f"latency {one['policy']} {one['rate']:,} requests/s:"
        f" emitted {one['emitted_p50']:.0f}, {one['emitted_p99']:.0f} ms,"
        f" visible {one['visible_p50']:.0f}, {one['visible_p99']:.0f} ms (p50, p99)"
    )


def tables(raw: dict[str, Any]) -> list[Table]:
    """The tables for which there is something."""
    runs = raw["speed"]
    made = [
        _work(runs),
        _speed(runs),
        _latency(raw.get("latency", [])),
        _memory(runs),
        _state(raw["state"]),
        _large(raw.get("large", [])),
        _delay(raw["delay"]),
        *(_growth(growth, raw.get("growth", [])) for growth in GROWTH),
        _cpu(runs),
    ]
    return [table for table in made if table.rows]


def brief(table: Table) -> Table:
    """The table for a terminal of 80 columns: medians alone."""
    rows = [tuple(cell.split(" (")[0] for cell in row) for row in table.rows]
    return replace(table, title=table.title.split(": median")[0], rows=rows)


def _by_setting(runs: Runs) -> dict[tuple[Any, ...], dict[str, Runs]]:
    """Setting and processor to plan to its runs, in the order in which they were measured."""
    found: dict[tuple[Any, ...], dict[str, Runs]] = {}
    for run in runs:
        of = found.setdefault((setting_of(run), place_of(run)), {})
        of.setdefault(run["plan"], []).append(run)
    return found


def _label(run: dict[str, Any]) -> str:
    if run["part"] == "alone":
        return f"join alone{_where(run)}"
    parts = [f"{run['source']}, {run['features']} features"]
    if run["source"] == "kafka":
        parts.append(f"{run['partitions']} partition{'s' if run['partitions'] > 1 else ''}")
    if run["parallelism"] > 1:
        parts.append(f"{run['parallelism']} subtasks")
    return ", ".join(parts) + _where(run)


def _where(run: dict[str, Any]) -> str:
    name = short_name(place_of(run))
    return f" ({name})" if name else ""


def short_name(processor: str) -> str:
    """Its maker, kind and clock, without marks and common words."""
    words = processor.replace("(R)", "").replace("(TM)", "").split()
    return " ".join(word for word in words if word not in ("Processor", "CPU", "@"))


def _any(of: dict[str, Runs]) -> dict[str, Any]:
    return next(iter(of.values()))[0]


def _plans(runs: Runs) -> list[str]:
    return [plan for plan in NAMES if any(run["plan"] == plan for run in runs)]


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    middle, least, most = (f"{v:,.{digits}f}" for v in (median(values), min(values), max(values)))
    return f"{middle} ({least}-{most}; {len(values)})"


def _compared(
    runs: Runs,
    value: Callable[[dict[str, Any]], float],
    digits: int,
    best: Callable[[list[float]], float],
) -> list[tuple[dict[str, Any], list[str]]]:
    """For each setting on each processor: a run of it, and the cells of a value. Those are its
    spread by plan, and the ratio of each of ours to the `best` of the others.
    """
    plans, rows = _plans(runs), []
    for of in _by_setting(runs).values():
        values = {plan: [value(run) for run in of.get(plan, [])] for plan in plans}
        others = [median(found) for plan, found in values.items() if plan not in OURS and found]
        ratios = [
            f"{median(values[plan]) / best(others):.2f}" if others and values[plan] else "-"
            for plan in plans
            if plan in OURS
        ]
        rows.append((_any(of), [*(_spread(found, digits) for found in values.values()), *ratios]))
    return rows


def _ratio_names(runs: Runs, to: str) -> list[str]:
    return [f"{NAMES[plan]}, of {to}" for plan in _plans(runs) if plan in OURS]


def _work(runs: Runs) -> Table:
    """The headline: unlike the rate, it hardly depends on what else the machine does."""
    return Table(
        f"CPU microseconds a request of {ITEMS} items: median (least-most; runs)",
        (
            *("", "state", "impressions"),
            *(NAMES[p] for p in _plans(runs)),
            *_ratio_names(runs, "the least other"),
        ),
        [
            (_label(run), BACKENDS[run["backend"]], _millions(run), *cells)
            for run, cells in _compared(runs, lambda run: work(run) / run["requests"] * 1e6, 0, min)
        ],
        "Source, join, sink and RocksDB threads; of Spark the tasks of its executor, of Quix the"
        " whole process. Garbage collection, compilation and other threads are in the table of"
        " where the time goes. Less is better.",
    )


def _speed(runs: Runs) -> Table:
    names = (NAMES[p] for p in _plans(runs))
    return Table(
        "Thousand impressions a second: median (least-most; runs)",
        ("", "state", "impressions", *names, *_ratio_names(runs, "the fastest other")),
        [
            (_label(run), BACKENDS[run["backend"]], _millions(run), *cells)
            for run, cells in _compared(runs, lambda run: float(run["rate"]) / 1_000, 1, max)
        ],
        "The whole run by Flink's own net runtime (of the peers: of the query), warming up of the"
        " JVM and the flush at the end of the input included. More is better.",
    )


def _millions(run: dict[str, Any]) -> str:
    return f"{run['requests'] * run['items'] / 1e6:.2f} M"


def _latency(measured: Runs) -> Table:
    rows = []
    for policy, place in dict.fromkeys((one["policy"], place_of(one)) for one in measured):
        of = [one for one in measured if (one["policy"], place_of(one)) == (policy, place)]
        cells = [
            _spread([one[key] for one in of], 0)
            for key in ("emitted_p50", "emitted_p99", "visible_p50", "visible_p99")
        ]
        name = f"{of[0]['kind']} rows of `{policy}`{_where(of[0])}"
        rows.append((name, f"{of[0]['rate']:,}", *cells))
    return Table(
        "Latency, milliseconds after a row is due: median (least-most; runs)",
        ("", "requests/s", "emitted p50", "p99", "visible p50", "p99"),
        rows,
        "From Kafka with one partition, at half of the rate above, or a quarter for a policy that"
        " writes each impression twice; at less (`--rate`) where the producer and the broker, which"
        " are on the same cores, leave no room for that."
        " A final row is due when the event that ends its window is in"
        f" Kafka, a positive row when its action is and time has reached it. A checkpoint every"
        f" {VISIBLE_EVERY_S} s makes files visible.",
    )


#: Of the table, and of its plot.
LARGE_TITLE = "State beyond memory"


def _large(measured: Runs) -> Table:
    rows = [
        (
            f"{one['options']}{_where(one)}",
            f"{one['pending']:,}",
            f"{large_state.predicted_bytes(one['pending']) / 1e6:,.0f}",
            f"{one['full_bytes'] / 1e6:,.0f}",
            f"{one['full_bytes'] / one['pending'] / ITEMS:.0f}",
            f"{one['disk_bytes'] / 1e6:,.0f}",
            f"{one['peak_bytes'] / 1e6:,.0f}",
            *(f"{one[key]:,.0f}" for key in ("growing", "first_half", "second_half")),
            f"{one['written_bytes'] / 1e6:,.0f}",
            f"{one['checkpoint_s']:.1f}",
            f"{one['restore_s']:.0f}",
            f"{one['start_s']:.0f}",
        )
        for one in measured
    ]
    return Table(
        f"{LARGE_TITLE}: RocksDB with {large_state.MANAGED_MB} MB of managed memory",
        (
            "options",
            "pending requests",
            "by the formula MB",
            "state MB",
            "bytes an impression",
            "MB on disk",
            "MB of memory",
            "requests/s while it grows",
            "then, first half",
            "second half",
            "MB a checkpoint",
            "seconds",
            "restore s",
            "start without state s",
        ),
        rows,
        "The join alone, 160 bytes an item that RocksDB's compression does not make smaller. The"
        ' formula is that of docs/operations.md, "Sizing". MB and seconds of a'
        f" checkpoint are medians while the state is full, one every {VISIBLE_EVERY_S} s. Restore"
        " is from the start of a process until all tasks run.",
    )


def growth_runs(growth: Growth, runs: Runs) -> Runs:
    """Those of one processor: the one that most sizes were measured on, or the last of these."""
    settings = [setting_of(setting.spec("ours")) for _, setting in growth.sizes]
    sizes: dict[str, set[Any]] = {}
    for run in runs:
        if setting_of(run) in settings:
            sizes.setdefault(place_of(run), set()).add(setting_of(run))
    place = max(reversed(sizes), key=lambda one: len(sizes[one]), default="")
    return [run for run in runs if place_of(run) == place and setting_of(run) in settings]


def costs(growth: Growth, runs: Runs) -> dict[float, dict[Plan, list[float]]]:
    """CPU microseconds an impression of each run, by size and plan, where both plans have runs."""
    found = {}
    of_settings = {
        setting: of for (setting, _), of in _by_setting(growth_runs(growth, runs)).items()
    }
    for size, setting in growth.sizes:
        spec = setting.spec("ours")
        of = of_settings.get(setting_of(spec), {})
        if all(of.get(plan) for plan in BEST):
            found[size] = {
                plan: [work(run) / spec.impressions * 1e6 for run in of[plan]] for plan in BEST
            }
    return found


def _growth(growth: Growth, runs: Runs) -> Table:
    impressions = {size: setting.spec("ours").impressions for size, setting in growth.sizes}
    rows = [
        (
            f"{size:g}",
            f"{impressions[size]:,}",
            *(_spread(us, 1) for us in cost.values()),
            f"{median(cost['ours']) / median(cost['over']):.2f}",
        )
        for size, cost in costs(growth, runs).items()
    ]
    shown = growth_runs(growth, runs)
    return Table(
        f"{growth.title}: CPU microseconds an impression",
        (growth.unit, "impressions", *(NAMES[p] for p in BEST), "ratio"),
        rows,
        "Files to Parquet. The runs are short, so that a part of each is code that is not compiled"
        " yet; the more impressions, the smaller the part."
        + (f" On {short_name(place_of(shown[0]))}." if shown and place_of(shown[0]) else ""),
    )


def _memory(runs: Runs) -> Table:
    plans = _plans(runs)
    rows = []
    for of in _by_setting(runs).values():
        run = _any(of)
        cells = []
        for plan in plans:
            both = [
                max(r[k] for r in of.get(plan, [])) / 1e6
                for k in ("jvm_bytes", "all_bytes")
                if plan in of
            ]
            cells.append(" / ".join(f"{size:,.0f}" for size in both) or "-")
        rows.append((_label(run), BACKENDS[run["backend"]], *cells))
    return Table(
        "Peak memory, MB resident: JVM / all processes",
        ("", "state", *(NAMES[p] for p in plans)),
        rows,
        f"The JVM may use {HEAP} of heap and collects late when it has room: an upper bound, not"
        f" a need. RocksDB has {MANAGED_MB} MB. In thread mode the JVM's figure includes Python's."
        " With several subtasks it is all JVMs of the cluster together.",
    )


def _of_state(part: str, features: int) -> str:
    if part == "alone":
        return f"join alone, {PAYLOAD_BYTES} bytes an item"
    return f"whole job, {features} features"


def _state(sizes: list[list[Any]]) -> Table:
    by = {(part, features, plan): size for part, features, plan, size in sizes}
    rows = []
    for part, features in dict.fromkeys((s[0], s[1]) for s in sizes):
        of = {p: by[part, features, p] for p in PLANS if (part, features, p) in by}
        least = min((of[p] for p in ("interval", "over") if p in of), default=None)
        ratios = [
            f"{of['ours'] / of[p]:.2f}" if "ours" in of and p in of else "-"
            for p in ("interval", "over")
        ]
        cells = [f"{of[p]:.0f}" if p in of else "-" for p in PLANS]
        if least is not None:
            rows.append((_of_state(part, features), *cells, *ratios))
    return Table(
        "State, bytes an impression",
        ("", *(NAMES[p] for p in PLANS), "of the interval join's", "of the OVER window's"),
        rows,
        "A full checkpoint of the heap backend while all of the input is pending: "
        "10,000 requests, a window longer than the input.",
    )


def _delay(delays: dict[str, dict[str, float]]) -> Table:
    rows: list[tuple[str, ...]] = [
        (NAMES[p], f"{d['without_action']:.4f}", f"{d['with_action']:.4f}")
        for p, d in delays.items()
    ]
    step = max((d["step"] for d in delays.values()), default=0.0)
    return Table(
        "When a sample comes out: event time after its request, in windows",
        ("", "without an action", "with one"),
        rows,
        f"Watermark less the request's time, no skew or lateness allowed, to {step} windows."
        " Where an input stands still, which rows are out.",
    )


def _cpu(runs: Runs) -> Table:
    kinds = ("source", "join and sink", "sink", "RocksDB", "GC", "JIT", "other")
    rows = []
    for by_plan in _by_setting(runs).values():
        for plan in _plans(runs):
            if plan in by_plan:
                of = by_plan[plan]
                each = of[0]["requests"] * of[0]["items"] / 1e6
                cells = [median(r["cpu"].get(k, 0.0) for r in of) for k in kinds]
                wall = median(r["seconds"] for r in of)
                rows.append(
                    (
                        _label(of[0]),
                        BACKENDS[of[0]["backend"]],
                        NAMES[plan],
                        *(f"{c / each:.1f}" for c in cells),
                        f"{wall / each:.1f}",
                    )
                )
    return Table(
        "Where the time goes: CPU microseconds an impression, by kind of thread",
        ("", "state", "plan", *kinds, "wall"),
        rows,
        "The join's thread also explodes requests and writes the Parquet, in all plans; the sink's"
        " threads compact and commit. Start-up and compilation (JIT) cost the same few seconds"
        " whatever the size of the input.",
    )


def markdown(made: list[Table], drawn: list[tuple[str, str]], raw: dict[str, Any]) -> str:
    """The page with all tables, and with the plots `drawn` (title and file) before theirs."""
    parts = ["# The join against Flink SQL, Spark and Quix Streams", _machines(raw)]
    for table in made:
        lines = [
            f"## {table.title}",
            "",
            "| " + " | ".join(table.header) + " |",
            "|" + "---|" + "---:|" * (len(table.header) - 1),
            *("| " + " | ".join(row) + " |" for row in table.rows),
        ]
        if table.note:
            lines += ["", table.note]
        lines[2:2] = [f"![{t}]({file})\n" for t, file in drawn if table.title.startswith(f"{t}:")]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _machines(raw: dict[str, Any]) -> str:
    facts = machine()
    kept = [run for part in ("speed", "growth", "latency", "large") for run in raw.get(part, [])]
    processors = sorted({place_of(run) for run in kept} - {""}) or [facts["processor"]]
    told = (
        f"Written by `make bench`; what is measured, and how, is in"
        f" [../README.md](../README.md). {facts['cores']} cores ({'; '.join(processors)}),"
        f" {facts['memory_gb']} GB of memory, Python {facts['python']}."
    )
    if len(processors) > 1:
        told += (
            " Rows say which of the processors they are from; plans are compared on one. Runs of"
            " another day may be of an earlier commit."
        )
    return told
