"""The results as tables, for the console and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from benchmarks.reporting import Table
from benchmarks.trainer.moving import VIRTUAL_NODES
from benchmarks.trainer.plan import (
    NAMES,
    OURS,
    PEERS,
    QUALITY,
    STALE_BATCH,
    STALE_PAUSE_S,
    STALE_SERVERS,
    STALE_WORKERS,
    STALENESS,
    STEP_ALPHA,
    STEP_BATCHES,
    STEP_CONSISTENCIES,
    STEP_SERVERS,
    STEP_WORKERS,
    STEPS,
    VW_RATED,
)
from benchmarks.trainer.sizing import Assumed, Measured, Need, assumptions, needs

Raw = dict[str, Any]
_MB = 1e6


def tables(raw: Raw) -> list[Table]:
    """One table for each kind of measurement that there are results of."""
    made = [
        *(_speed(raw["speed"]), _ratios(raw["speed"]), _time(raw["speed"])),
        *(_quality(raw["quality"]), _steps(raw["steps"]), _staleness(raw["staleness"])),
        *(_recovery(raw["recovery"]), _memory(raw["table"]), _disk(raw["table"])),
        *(_wire(raw["table"]), _ring(raw["ring"]), _sizing(raw)),
    ]
    return [table for table in made if table.rows]


def summary(raw: Raw) -> Table:
    """The headline: the speed beside Vowpal Wabbit's."""
    table = _ratios(raw["speed"])
    return Table("This project's samples/s over Vowpal Wabbit's", table.header, table.rows)


def _of(runs: list[Raw], name: str) -> list[Raw]:
    return [run for run in runs if run["name"] == name]


def _spread(values: Sequence[float], form: str = ",.0f") -> str:
    if not values:
        return "-"
    text = f"{median(values):{form}}"
    if len(values) == 1:
        return text
    return f"{text} ({min(values):{form}}-{max(values):{form}})"


def _optional(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else f"{value:{form}}"


# -- speed and quality -----------------------------------------------------------------------------


def _speed(runs: list[Raw]) -> Table:
    rows: list[tuple[str, ...]] = []
    auc = {run["name"]: run["auc"] for run in runs if run.get("auc") is not None}
    for name in (*OURS, *PEERS):
        of = _of(runs, name)
        if not of:
            continue
        last = of[-1]
        rows.append(
            (
                NAMES[name],
                _spread([run["rows"] / run["seconds"] / 1e3 for run in of]),
                _a_cpu_second(of),
                str(len(of)),
                f"{last['rows']:,}",
                f"{median(run['wall_s'] for run in of):.1f}",
                _spread_of_loss([run["log_loss"] for run in of]),
                f"{mean(run['normalized_entropy'] for run in of):.4f}",
                _optional(auc.get(name)),
            )
        )
    return Table(
        "Thousand samples per second: median (least-most)",
        (
            "system",
            "k samples/s",
            "k/CPU s",
            "runs",
            "samples",
            "process, s",
            "log loss",
            "NE",
            "AUC",
        ),
        rows,
        "Log loss, normalized entropy (NE) and AUC are progressive: a row is predicted before it"
        " is learned; those of fewer samples are of another, earlier part of the curve. Rates of"
        " this project are from Parquet on, strings hashed; those of Vowpal Wabbit from its file;"
        " those of scikit-learn and river, on one core, from memory, but for the one from Parquet."
        " A CPU second: of the process while it learns, which other work on the machine changes"
        " less than the time. Process: the seconds of all of it, with imports, compilation, and the"
        " start of Ray.",
    )


def _a_cpu_second(runs: list[Raw]) -> str:
    """Thousand samples for each second that one process computed."""
    known = [run for run in runs if run.get("cpu_s")]
    return _spread([run["rows"] / run["cpu_s"] / 1e3 for run in known]) if known else "-"


def _spread_of_loss(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.4f}" if high - low < 5e-5 else f"{low:.4f}-{high:.4f}"


def _ratios(runs: list[Raw]) -> Table:
    rows: list[tuple[str, ...]] = []
    for name in OURS:
        of = {run["round"]: run["rows"] / run["seconds"] for run in _of(runs, name)}
        cells = []
        for peer in VW_RATED:
            theirs = {run["round"]: run["rows"] / run["seconds"] for run in _of(runs, peer)}
            pairs = [of[n] / theirs[n] for n in of if n in theirs]
            cells.append(_spread(pairs, ".2f"))
        if of:
            rows.append((NAMES[name], *cells))
    return Table(
        "This project over Vowpal Wabbit, pair by pair: median (least-most)",
        ("this project", *(NAMES[peer].removeprefix("Vowpal Wabbit, ") for peer in VW_RATED)),
        rows,
        "Samples/s over those of the run of the same round. Above 1: this project is faster.",
    )


def _time(runs: list[Raw]) -> Table:
    rows: list[tuple[str, ...]] = []
    for name in OURS:
        of = _of(runs, name)
        if of:
            parts = [median(run["parts_s"][n] / run["rows"] * 1e6 for run in of) for n in range(4)]
            wall = median(run["seconds"] / run["rows"] * 1e6 for run in of)
            rows.append((NAMES[name], *(f"{part:.2f}" for part in parts), f"{wall:.2f}"))
    return Table(
        "Where the time goes: microseconds per sample, all workers together",
        ("this project", "read, encode", "pull", "compute", "push", "wall"),
        rows,
        "Compute: sums, loss, gradients and the evaluation. Wall: of the run, whatever the workers;"
        " it is less than the sum where two things are done at once.",
    )


def _quality(runs: list[Raw]) -> Table:
    rows: list[tuple[str, ...]] = []
    columns = list(dict.fromkeys(run["name"] for run in runs))
    for alpha in dict.fromkeys(run["alpha"] for run in runs):
        of = {run["name"]: run for run in runs if run["alpha"] == alpha}
        cells = [
            f"{of[c]['log_loss']:.4f} / {of[c]['normalized_entropy']:.4f}" if c in of else "-"
            for c in columns
        ]
        rows.append((f"{alpha:g}", *cells))
    return Table(
        "Progressive log loss / normalized entropy, by FTRL's alpha and the batch",
        ("alpha", *(QUALITY[name] for name in columns)),
        rows,
        "All samples, one pass. Vowpal Wabbit learns after each sample; a batch takes one step for"
        " each key, by the sum of its gradients. beta 1, no l1, no l2, everywhere.",
    )


def _steps(runs: list[Raw]) -> Table:
    def cell(run: Raw | None) -> str:
        if run is None:
            return "-"
        return f"{run['log_loss']:.4f} / {run['rows'] / run['seconds'] / 1e3:,.0f}"

    ours = {
        (run["consistency"], run["workers"], run["batch"], run["name"]): run
        for run in runs
        if run["name"] != "vw"
    }
    rows: list[tuple[str, ...]] = []
    for consistency in STEP_CONSISTENCIES:
        for workers in STEP_WORKERS:
            for batch in STEP_BATCHES:
                of = [ours.get((consistency, workers, batch, per)) for per in STEPS]
                if any(of):
                    cells = (consistency.upper(), str(workers), f"{batch:,}", *map(cell, of))
                    rows.append(cells)
    theirs = _of(runs, "vw")
    if theirs:
        rows.append(("Vowpal Wabbit, text", "1", "1", "-", cell(theirs[-1])))
    return Table(
        "A step per sample and a step per batch: log loss / thousand samples per second",
        ("consistency", "workers", "samples per worker's batch", "per batch", "per sample"),
        rows,
        f"Progressive log loss over all samples, one pass, on {STEP_SERVERS} servers, alpha"
        f" {STEP_ALPHA}. Under BSP all workers share a batch, so that is as many times larger."
        " Vowpal Wabbit: one process, one core; it predicts a row after it has learned the row"
        " before.",
    )


# -- staleness and recovery ------------------------------------------------------------------------


def _staleness(runs: list[Raw]) -> Table:
    rows: list[tuple[str, ...]] = []
    for name in STALENESS:
        of = _of(runs, name)
        if of:
            rows.append(
                (
                    STALENESS[name].title,
                    _spread([run["log_loss"] for run in of], ".4f"),
                    _spread([run["seconds"] for run in of], ".1f"),
                    _spread([run["widest"] for run in of]),
                    _spread([run["held"] for run in of]),
                )
            )
    samples = f"{runs[0]['rows']:,}" if runs else ""
    return Table(
        "Staleness: quality and time",
        ("consistency", "log loss", "seconds", "widest lead, batches", "held back"),
        rows,
        f"{STALE_WORKERS} workers on {STALE_SERVERS} servers, {samples} samples, {STALE_BATCH} a"
        f" batch; the first worker takes {STALE_PAUSE_S * 1e3:.0f} ms longer for each batch."
        " Under BSP all workers share every batch, so that it is in each of them. The lead is that"
        " over the slowest worker, when a batch was begun. Held back: how often the coordinator"
        " looked at an idle worker and did not give it a batch.",
    )


def _recovery(runs: list[Raw]) -> Table:
    rows: list[tuple[str, ...]] = []
    if runs:
        for title, key in (
            ("to the next batch that is finished", "stalls_s"),
            ("to one that was begun afterwards", "begun_after_s"),
            ("until all shards have two copies again", "restored_s"),
        ):
            seconds = [s for run in runs for s in run[key]]
            rows.append((title, _spread(seconds, ".2f"), str(len(seconds))))
    return Table(
        "A server is killed (SIGKILL): seconds, median (least-most)",
        ("from the kill", "seconds", "kills"),
        rows,
        "Two servers, each with the backup of the other's shard, and two workers. A server starts"
        " anew, imports included, before it can take copies.",
    )


# -- tables ----------------------------------------------------------------------------------------


def _memory(runs: list[Raw]) -> Table:
    rows: list[tuple[str, ...]] = []
    for run in runs[-1:]:
        for title, model in (("logistic regression", "lr"), ("factorization machine", "fm")):
            of = run["memory"][model]
            values = int(of["values"])
            cells = [of["mean"], of["least"], of["most"], of["mean"] / values]
            rows.append((title, str(values), *(f"{cell:.1f}" for cell in cells)))
    return Table(
        "Bytes of memory per row",
        ("model", "values per row", "mean", "least", "most", "per value, mean"),
        rows,
        "Keys, values, optimizer's state (FTRL for the weight, AdaGrad for the others), time stamps"
        " and free places, while a table grows to twice its size.",
    )


def _disk(runs: list[Raw]) -> Table:
    rows: list[tuple[str, ...]] = []
    for run in runs[-1:]:
        for of in run["disk"]:
            size = of["bytes"] / _MB
            rows.append(
                (
                    f"{of['rows']:,}",
                    f"{size:.1f}",
                    f"{median(of['pause_s']):.3f}",
                    f"{median(of['write_s']):.3f}",
                    f"{size / median(of['write_s']):,.0f}",
                    f"{median(of['read_s']):.3f}",
                    f"{size / median(of['read_s']):,.0f}",
                )
            )
    return Table(
        "Checkpoints of one shard, medians",
        ("keys", "MB", "pause, s", "write, s", "MB/s", "restore, s", "MB/s"),
        rows,
        "Training stands still in the pause, in which the rows are copied. Written: with the copy,"
        " the checksum, and flushed to the disk. Restored: read (the system still has it in"
        " memory), checked, and made a table of.",
    )


def _wire(runs: list[Raw]) -> Table:
    rows: list[tuple[str, ...]] = []
    for run in runs[-1:]:
        of = run["wire"]
        three = [of["pull"], of["push"], of["copy"]]
        cells = (*(f"{size:.2f}" for size in (*three, sum(three))), f"{of['keys_a_sample']:.2f}")
        rows.append(("logistic regression", *cells))
    return Table(
        "Bytes on the wire per distinct key of a batch, both ways",
        ("model", "pull", "push", "copy to the backup", "together", "keys per sample"),
        rows,
        "Batches of 4,096 on two servers. Keys per sample: distinct keys of a batch divided by"
        " its samples.",
    )


def _ring(runs: list[Raw]) -> Table:
    rows: list[tuple[str, ...]] = [
        (
            str(run["servers"]),
            f"{run['joined']:.4f}",
            f"{1 / (run['servers'] + 1):.4f}",
            f"{run['left']:.4f}",
            f"{run['left_most']:.4f}",
            f"{1 / run['servers']:.4f}",
            f"{run['needless']:.4f}",
            f"{run['largest']:.3f}",
        )
        for run in runs
    ]
    return Table(
        "Share of the keys that moves when a server joins or leaves, and balance",
        (
            *("servers", "one joins", "1/(n+1)", "one leaves, mean", "most", "1/n"),
            *("between those that stay", "largest/mean share"),
        ),
        rows,
        f"{VIRTUAL_NODES} virtual nodes a server.",
    )


# -- paper -----------------------------------------------------------------------------------------


def _measured(raw: Raw) -> Measured | None:
    one_core = _of(raw["speed"], "ours-4096")
    if not raw["table"] or not one_core:
        return None
    of = raw["table"][-1]
    large = of["disk"][-1]
    memory = of["memory"]
    return Measured(
        row_bytes={model: memory[model]["mean"] for model in memory},
        values={model: int(memory[model]["values"]) for model in memory},
        pull=of["wire"]["pull"],
        push=of["wire"]["push"],
        copy=of["wire"]["copy"],
        keys_a_sample=of["wire"]["keys_a_sample"],
        write=large["bytes"] / median(large["write_s"]),
        read=large["bytes"] / median(large["read_s"]),
        checkpoint=large["bytes"] / large["rows"] / memory["lr"]["mean"],
        rate=median(run["rows"] / run["seconds"] for run in one_core),
    )


def _sizing(raw: Raw) -> Table:
    measured = _measured(raw)
    if measured is None:
        return Table("", (), [])
    assumed = Assumed()
    found = needs(measured, assumed)

    def row(title: str, *cells: str) -> tuple[str, ...]:
        return (title, *cells)

    def each(form: str, of: Any) -> list[str]:
        return [format(of(need), form) for need in found]

    rows = [
        row("keys, 10^9", *each(",.0f", lambda n: n.rows / 1e9)),
        row("bytes per key", *each(".1f", lambda n: n.tables / n.rows)),
        row("tables, TB", *each(",.1f", lambda n: n.tables / 1e12)),
        row("with the backups, TB", *each(",.1f", lambda n: n.memory / 1e12)),
        row("machines for servers", *each(",.0f", lambda n: n.machines)),
        row("cores for workers", *each(",.0f", lambda n: n.cores)),
        row("network, all, Gbit/s", *each(",.1f", lambda n: n.network / 1e9)),
        row(
            "network, per server machine, Gbit/s",
            *each(",.2f", lambda n: n.network_a_machine / 1e9),
        ),
        row("checkpoint, s", *each(",.0f", lambda n: n.checkpoint_s)),
        row("restore, s", *each(",.0f", lambda n: n.restore_s)),
        row("new copies after a loss, s", *each(",.0f", lambda n: n.copy_again_s)),
    ]
    note = "On paper, from the figures above. " + " ".join(assumptions(assumed))
    return Table("A model of 10 TB", ("need", *_titles(found)), rows, note)


def _titles(found: list[Need]) -> list[str]:
    return [need.title for need in found]


# -- forms -----------------------------------------------------------------------------------------


def markdown(made: list[Table], raw: Raw, plots: Sequence[tuple[str, str]] = ()) -> str:
    """The page with all tables. `plots`: the title of a table, and the file name of its plot."""
    parts = ["# The trainer beside others", _about(raw)]
    for table in made:
        lines = [f"## {table.title}", "", *_lined_up(table)]
        if table.note:
            lines += ["", table.note]
        lines += [f"\n![{title}]({name})" for title, name in plots if title == table.title]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _lined_up(table: Table) -> list[str]:
    every = [table.header, *table.rows]
    widths = [max(3, *(len(row[n]) for row in every)) for n in range(len(table.header))]

    def line(row: tuple[str, ...]) -> str:
        cells = [
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(cells) + " |"

    rule = [("-" * (width + 1) + ":") if n else "-" * (width + 2) for n, width in enumerate(widths)]
    return [line(table.header), "|" + "|".join(rule) + "|", *(line(row) for row in table.rows)]


def _about(raw: Raw) -> str:
    of = raw["machine"]
    quick = (
        " This was a quick run (`--quick`): small, one round; its figures say little."
        if raw["quick"]
        else ""
    )
    return (
        "Written by `python -m benchmarks.trainer`; what is measured, and how, is in"
        f" [../README.md](../README.md). {of['cores']} cores ({of['processor']}), shared with"
        f" others, {of['memory_gb']} GB of memory, Python {of['python']}. Logistic regression on"
        f" {raw['rows']:,} samples of 11 features and a bias, FTRL with alpha {raw['alpha']}."
        f"{quick}"
    )
