"""What `results.json` holds of finished runs: which are done, and whether their rows agree.

Every run says the processor that it was on. Plans are compared on one only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.join.spec import Spec

#: All plans read the same input if these are equal.
_INPUT = ("requests", "items", "features", "click_percent", "step_ms", "window_ms")
#: What tells one setting, at which plans are compared, from another.
SETTING = ("part", "backend", "source", "partitions", "parallelism", *_INPUT)


def readable(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the runs of an older benchmark, which did not say all that tells settings apart."""
    return [run for run in runs if run.keys() >= {*SETTING, "plan"}]


def setting_of(run: Spec | dict[str, Any]) -> tuple[Any, ...]:
    """What tells its setting from others: the values of `SETTING`."""
    values = run if isinstance(run, dict) else vars(run)
    return tuple(values[name] for name in SETTING)


def place_of(run: dict[str, Any]) -> str:
    """The processor that a run was on; empty where that was not kept."""
    return str(run.get("processor", ""))


def on(processor: str, runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the kept `runs` that were on this processor."""
    return [run for run in runs if place_of(run) == processor]


def runs_done(runs: Iterable[dict[str, Any]], spec: Spec) -> int:
    """How many of the kept `runs` measured this case."""
    setting = setting_of(spec)
    return sum(run["plan"] == spec.plan and setting_of(run) == setting for run in runs)


def disagreement(runs: Iterable[dict[str, Any]]) -> str | None:
    """Runs of the whole job that read one input and wrote other numbers of rows or clicks.

    Returns:
        Who wrote what, for the first such input; None when all agree.
    """
    by_input: dict[tuple[Any, ...], dict[tuple[int, int], set[str]]] = {}
    for run in runs:
        if run["part"] == "whole":
            wrote = by_input.setdefault(tuple(run[name] for name in _INPUT), {})
            wrote.setdefault((run["rows"], run["clicks"]), set()).add(run["plan"])
    for key, wrote in by_input.items():
        if len(wrote) > 1:
            told = "; ".join(
                f"{', '.join(sorted(plans))}: {rows:,} rows, {clicks:,} clicks"
                for (rows, clicks), plans in wrote.items()
            )
            return (
                f"the plans disagree on {key[0]:,} requests of {key[1]} items, {key[2]} features:"
                f" {told}"
            )
    return None
