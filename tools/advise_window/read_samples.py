"""Delays from what the joining job wrote: `samples/` and `late_actions/` (docs/sample-format.md).

A row has the actions within the window; `late_actions/` has those up to the late horizon H. So an
impression is followed for H, or until the action stream ends, or for as long as its row was
observed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from corrections.versions import VERSION, latest
from jobs.pipeline.config import ConfigError, Pipeline
from schemas import generations
from schemas.generations import Current, PointerError
from tools.advise_window import orphans
from tools.advise_window.observations import (
    Floats,
    Ints,
    KindObservations,
    Observed,
    next_showing,
    observe,
)
from tools.summary.show import readable_ms
from tools.try_mapping.reading import events_of
from udfs.core.matching import JoinRules

#: Reasons of rejected actions that still moved event time.
_TIMED = ("orphan_action", "duplicate_action", "too_many_actions")


@dataclass(frozen=True)
class _Late:
    """The first late action of a kind for each sample (n,)."""

    sample_ids: Ints
    request_times: Floats
    delays: Floats


def read(pipeline: Pipeline) -> Observed:
    """The observations of every configured kind. Raises ConfigError if there is nothing to read."""
    if "://" in pipeline.output.path:
        raise ConfigError(f"output.path: {pipeline.output.path} is not a local folder; mount it")
    output = Path(pipeline.output.path)
    of = _current(output)
    rules = pipeline.rules
    names = ["sample_id", "item_id", "observed_ms", "sampling_rate", "kind", *VERSION]
    wanted = [f"{part}_{k.name}{end}" for k in rules.kinds for part, end in _OF_KIND]
    samples = _table(output, "samples", of, [*names, *wanted])
    if samples is None or not len(samples):
        raise ConfigError(
            f"{output / 'samples'}: there are no samples yet; run"
            " `python -m jobs.join_samples` first, or use --from events"
        )
    samples = latest(samples)
    late = _table(output, "late_actions", of, ["sample_id", "request_time", "action", "delay_ms"])
    until = _end(pipeline, output, of, samples, late)

    beyond = orphans.beyond_horizon(
        _table(output, "rejected", of, ["stream", "reason", "raw"]),
        samples,
        rules,
        events_of(pipeline, "actions"),
    )
    times = _floats(samples["event_time"])
    follow = np.minimum(rules.late_horizon, until - times)
    observed = _floats(samples["observed_ms"], missing=0.0)
    is_final = pc.equal(samples["kind"], "final").to_numpy()
    # a row that was not observed to the end of the window: label silence, or end of input
    cut = is_final & (observed < rules.longest_window)
    follow = np.where(cut, np.minimum(follow, observed), follow)
    if rules.key == "user_id":
        pairs = pc.binary_join_element_wise(samples["user_id"], samples["item_id"], "\x00")
        codes = pairs.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
        follow = np.minimum(follow, next_showing(codes, times) - times - rules.skew)

    notes: list[str] = []
    kinds = tuple(
        replace(
            _kind(samples, late, times, follow, until, rules, number, notes),
            beyond=beyond.of_known[kind.name],
            horizon=float(rules.late_horizon),
        )
        for number, kind in enumerate(rules.kinds)
    )
    notes += beyond.notes(
        {kind.kind: len(kind.delays) for kind in kinds}, readable_ms(rules.late_horizon)
    )
    return Observed(
        origin=f"samples and late actions in {output}",
        until=int(until),
        kinds=kinds,
        followed_to_horizon=True,
        notes=tuple(notes),
    )


_OF_KIND = (("delay", "_ms"), ("mature", ""))


def _kind(
    samples: pa.Table,
    late: pa.Table | None,
    times: Floats,
    follow: Floats,
    until: float,
    rules: JoinRules,
    number: int,
    notes: list[str],
) -> KindObservations:
    kind = rules.kinds[number]
    ids = samples["sample_id"].to_numpy()
    delays = _floats(samples[f"delay_{kind.name}_ms"], missing=np.nan)
    rates = _floats(samples["sampling_rate"])
    weights = 1.0 / rates
    # rows from before the kind was configured say nothing about it
    known = samples[f"mature_{kind.name}"].is_valid().to_numpy()
    joined = delays[~np.isnan(delays)]
    if len(joined) and joined.max() > kind.window_ms:
        notes.append(
            f"{kind.name}: some samples were made with a longer window than is configured now;"
            " take the configuration they were made with"
        )
    found = _late_of(late, kind.name)
    # the id of a request may be used again, so a sample's name includes its time
    known_samples = {
        pair: n for n, pair in enumerate(zip(ids.tolist(), times.tolist(), strict=True))
    }
    wanted = zip(found.sample_ids.tolist(), found.request_times.tolist(), strict=True)
    at = np.array([known_samples.get(pair, -1) for pair in wanted], dtype=np.int64)
    has_row = at >= 0
    rows = at[has_row]
    delays[rows] = np.fmin(delays[rows], found.delays[has_row])
    # late actions are complete even if their samples were sampled out, so their weight is 1
    weights = np.where(np.isnan(delays), weights, 1.0)
    more = ~has_row & (found.request_times >= times.min())
    return observe(
        kind.name,
        kind.window_ms,
        np.concatenate([delays[known], found.delays[more]]),
        np.concatenate(
            [
                follow[known],
                np.minimum(rules.late_horizon, until - found.request_times[more]),
            ]
        ),
        np.concatenate([weights[known], np.ones(int(more.sum()))]),
    )


def _late_of(late: pa.Table | None, kind: str) -> _Late:
    if late is None:
        return _Late(np.empty(0, np.int64), np.empty(0), np.empty(0))
    of_kind = late.filter(pc.equal(late["action"], kind))
    ids, delays = of_kind["sample_id"].to_numpy(), _floats(of_kind["delay_ms"])
    times = _floats(of_kind["request_time"])
    order = np.lexsort((delays, times, ids))
    other = np.diff(ids[order], prepend=ids[order][:1] - 1) != 0
    other |= np.diff(times[order], prepend=times[order][:1] - 1) != 0
    first = order[other]
    return _Late(ids[first], times[first], delays[first])


def _end(
    pipeline: Pipeline, output: Path, of: Current, samples: pa.Table, late: pa.Table | None
) -> float:
    """The time up to which the action stream is known to be complete, epoch ms."""
    stated = pipeline.end_of_input.complete_until
    if stated is not None:
        return float(stated)
    ends = []
    times = _floats(samples["event_time"])
    for kind in pipeline.kinds:
        action_times = times + _floats(samples[f"delay_{kind.name}_ms"], missing=-np.inf)
        ends.append(float(action_times.max()))
    if late is not None and len(late):
        ends.append(float((_floats(late["request_time"]) + _floats(late["delay_ms"])).max()))
    rejected = _table(output, "rejected", of, ["stream", "reason", "record_time"])
    if rejected is not None:
        timed = pc.and_(
            pc.equal(rejected["stream"], "actions"),
            pc.is_in(rejected["reason"], value_set=pa.array(_TIMED)),
        )
        latest = pc.max(rejected.filter(timed)["record_time"]).as_py()
        ends += [] if latest is None else [float(latest)]
    end = max(ends)
    if not np.isfinite(end):
        raise ConfigError(f"{output}: no action of any kind was joined or late: nothing to learn")
    # actions of the last moments may not have arrived yet
    return end - max(int(n.source.out_of_orderness) for n in pipeline.sources.of("actions"))


def _current(output: Path) -> Current:
    try:
        return generations.current(output)
    except (OSError, PointerError) as error:
        raise ConfigError(f"output.path: {error}") from None


def _table(output: Path, name: str, of: Current, columns: list[str]) -> pa.Table | None:
    """These columns of all files; null where a file does not have one. None without files."""
    folder, files = output / name, generations.files(output, name, of)
    if not files:
        return None
    paths = [str(file) for file in files]
    dataset: Any = ds.dataset(paths, format="parquet")
    schemas = list(dict.fromkeys(f.physical_schema for f in dataset.get_fragments()))
    schema = pa.unify_schemas(schemas, promote_options="permissive")
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise ConfigError(
            f"{folder}: the files have no column {missing[0]!r};"
            " is this the configuration that they were made with?"
        )
    table: pa.Table = ds.dataset(paths, schema=schema, format="parquet").to_table(columns=columns)
    return table


def _floats(column: pa.ChunkedArray, missing: float | None = None) -> Floats:
    column = column.cast(pa.float64())
    values = column if missing is None else pc.fill_null(column, missing)
    return np.array(values.to_numpy(), dtype=np.float64)
