"""What was measured, as tables for the console and for Markdown."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.join.flink_options import HEAP, MANAGED_MB
from benchmarks.join.spec import ITEMS, PAYLOAD_BYTES, PLANS
from benchmarks.reporting import Table, machine

NAMES = {"ours": "this project", "interval": "SQL interval join", "over": "SQL OVER window"}
#: The kinds of threads that work on records; their CPU is the headline.
WORKING = ("source", "join and sink", "sink", "RocksDB")
BACKENDS = {"hashmap": "heap", "rocksdb": "RocksDB"}


def tables(raw: dict[str, Any]) -> list[Table]:
    """The tables for which there is something."""
    made = [_work(raw["speed"]), _speed(raw["speed"]), _memory(raw["speed"]), _state(raw["state"])]
    made += [_delay(raw["delay"]), _cpu(raw["speed"])]
    return [table for table in made if table.rows]


def _settings(runs: list[dict[str, Any]]) -> list[tuple[str, str, int, int]]:
    return list(
        dict.fromkeys((r["part"], r["backend"], r["features"], r["requests"]) for r in runs)
    )


def _of(
    runs: list[dict[str, Any]], setting: tuple[str, str, int, int], plan: str
) -> list[dict[str, Any]]:
    return [
        r
        for r in runs
        if (r["part"], r["backend"], r["features"], r["requests"]) == setting and r["plan"] == plan
    ]


def _label(part: str, features: int) -> str:
    if part == "alone":
        return f"join alone, {PAYLOAD_BYTES} bytes an item"
    return f"whole job, {features} features"


def _work(runs: list[dict[str, Any]]) -> Table:
    """The headline: unlike the rate, it hardly depends on what else the machine does."""
    rows = []
    for setting in _settings(runs):
        part, backend, features, requests = setting
        per = {
            p: [
                sum(r["cpu"].get(kind, 0.0) for kind in WORKING) / requests * 1e6
                for r in _of(runs, setting, p)
            ]
            for p in PLANS
        }
        cells = [
            f"{median(us):,.0f} ({min(us):,.0f}-{max(us):,.0f}; {len(us)})" if us else "-"
            for us in per.values()
        ]
        sql = [median(per[p]) for p in ("interval", "over") if per[p]]
        ratio = "-"
        if sql and min(sql) > 0 and per["ours"]:
            ratio = f"{median(per['ours']) / min(sql):.2f}"
        rows.append((_label(part, features), BACKENDS[backend], *cells, ratio))
    return Table(
        f"CPU microseconds a request of {ITEMS} items: median (least to most; runs)",
        ("", "state", *NAMES.values(), "ratio to the better SQL"),
        rows,
        "Source, join, sink and RocksDB threads. Garbage collection, compilation and other threads"
        " are in the table of where the time goes.",
    )


def _speed(runs: list[dict[str, Any]]) -> Table:
    rows = []
    for setting in _settings(runs):
        part, backend, features, requests = setting
        rates = {p: [r["rate"] for r in _of(runs, setting, p)] for p in PLANS}
        cells = []
        for plan in PLANS:
            k = [rate / 1_000 for rate in rates[plan]]
            cells.append(f"{median(k):.1f} ({min(k):.1f}-{max(k):.1f}; {len(k)})" if k else "-")
        sql = [median(rates[p]) for p in ("interval", "over") if rates[p]]
        ratio = f"{median(rates['ours']) / max(sql):.2f}" if sql and rates["ours"] else "-"
        size = f"{requests * ITEMS / 1e6:.2f} M"
        rows.append((_label(part, features), BACKENDS[backend], size, *cells, ratio))
    return Table(
        "Thousand impressions a second: median (least to most; runs)",
        ("", "state", "impressions", *NAMES.values(), "ratio to the faster SQL"),
        rows,
        "The whole run by Flink's own net runtime, warming up of the JVM and the flush at the end"
        " of the input included.",
    )


def _memory(runs: list[dict[str, Any]]) -> Table:
    rows = []
    for setting in _settings(runs):
        part, backend, features, _ = setting
        cells = []
        for plan in PLANS:
            of = _of(runs, setting, plan)
            both = [max(r[k] for r in of) / 1e6 for k in ("jvm_bytes", "all_bytes")] if of else []
            cells.append(" / ".join(f"{size:,.0f}" for size in both) or "-")
        rows.append((_label(part, features), BACKENDS[backend], *cells))
    return Table(
        "Peak memory, MB resident: JVM / all processes",
        ("", "state", *NAMES.values()),
        rows,
        f"The JVM may use {HEAP} of heap and collects late when it has room: an upper bound, not"
        f" a need. RocksDB has {MANAGED_MB} MB. In thread mode the JVM's figure includes Python's.",
    )


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
            rows.append((_label(part, features), *cells, *ratios))
    return Table(
        "State, bytes an impression",
        ("", *NAMES.values(), "of the interval join's", "of the OVER window's"),
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


def _cpu(runs: list[dict[str, Any]]) -> Table:
    kinds = ("source", "join and sink", "sink", "RocksDB", "GC", "JIT", "other")
    rows = []
    for setting in _settings(runs):
        part, backend, features, requests = setting
        for plan in PLANS:
            of = _of(runs, setting, plan)
            if of:
                impressions = requests * ITEMS
                cells = [median(r["cpu"].get(k, 0.0) for r in of) for k in kinds]
                wall = median(r["seconds"] for r in of)
                rows.append(
                    (
                        _label(part, features),
                        BACKENDS[backend],
                        NAMES[plan],
                        *(f"{c / impressions * 1e6:.1f}" for c in cells),
                        f"{wall / impressions * 1e6:.1f}",
                    )
                )
    return Table(
        "Where the time goes: CPU microseconds an impression, by kind of thread",
        ("", "state", "plan", *kinds, "wall"),
        rows,
        "The join's thread also explodes requests and writes the Parquet, in all plans; the sink's"
        " threads compact and commit. Start-up"
        " and compilation (JIT) cost the same few seconds whatever the size of the input.",
    )


def markdown(made: list[Table]) -> str:
    """The page with all tables."""
    parts = ["# The join against Flink SQL", _machine()]
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
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _machine() -> str:
    facts = machine()
    return (
        f"Written by `python -m benchmarks.join`; what is measured, and how, is in"
        f" [../README.md](../README.md). {facts['cores']} cores ({facts['processor']}),"
        f" {facts['memory_gb']} GB of memory, Python {facts['python']}, parallelism 1."
    )
