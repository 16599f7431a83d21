"""Delays from the raw event files, as far as the logs reach: neither window nor horizon cuts them.

Actions are assigned to impressions as in the join (docs/join-semantics.md 1, 2), but without an
upper bound in time. Only the necessary fields are decoded, so a record that the job would reject
for its features is used here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np
import pyarrow as pa

from configuration import paths
from jobs.pipeline.config import ConfigError, FilesSource, Pipeline
from jobs.pipeline.file_plan import find
from schemas import event_files
from schemas.actions import NEEDS_VALUE
from schemas.decoding import in_bounds
from schemas.events import LATEST_TIME, Stream
from schemas.mapping.decoding import Texts, texts_of
from tools.advise_window.observations import Floats, Ints, Observed, next_showing, observe

_Id = Annotated[str, msgspec.Meta(min_length=1)]


class _Item(msgspec.Struct):
    item_id: _Id


class _Request(msgspec.Struct):
    request_id: _Id
    user_id: _Id
    event_time: int
    items: Annotated[list[_Item], msgspec.Meta(min_length=1)]


class _Action(msgspec.Struct):
    user_id: _Id
    item_id: _Id
    action: _Id
    event_time: int
    request_id: str | None = None
    value: float | None = None


_Record = TypeVar("_Record", _Request, _Action)


def read(pipeline: Pipeline) -> Observed:
    """The observations of every configured kind.

    Raises ConfigError if the sources are not files, or hold nothing that can be used.
    """
    features, actions = pipeline.sources.features, pipeline.sources.actions
    if not isinstance(features, FilesSource) or not isinstance(actions, FilesSource):
        raise ConfigError(
            "--from events reads files, and these sources are Kafka topics or an archive: dump them"
            " to .jsonl files, or leave the option out to read the samples"
        )
    rules = pipeline.rules
    by_request = rules.key == "request_id"
    notes: list[str] = []
    mappings = pipeline.mappings
    shown, times = _impressions(
        features, texts_of(mappings, "features"), notes, by_request=by_request
    )
    need_value = {k.name for k in rules.kinds if k.label in NEEDS_VALUE}
    acted, kinds, action_times = _actions(
        actions, texts_of(mappings, "actions"), need_value, notes, by_request=by_request
    )
    if not shown or not acted:
        missing = "features" if not shown else "actions"
        why = "".join(f"; {note}" for note in notes if note.startswith(missing))
        raise ConfigError(f"sources.{missing}.path: no usable record in {missing}{why}")
    codes = pa.array(shown + acted).dictionary_encode().indices.to_numpy().astype(np.int64)
    shown_codes, acted_codes = codes[: len(shown)], codes[len(shown) :]
    causes = _causes(shown_codes, times, acted_codes, action_times, rules.skew)

    stated = pipeline.end_of_input.complete_until
    # actions of the last moments may not have arrived yet
    until = action_times.max() - int(actions.out_of_orderness) if stated is None else stated
    follow = np.minimum(until - times, next_showing(shown_codes, times) - times - rules.skew)
    weights = np.ones(len(times))
    of_kind = np.array(kinds)
    observed = []
    for kind in rules.kinds:
        taken = (of_kind == kind.name) & (causes >= 0)
        delays = _first(causes[taken], action_times[taken], times)
        observed.append(observe(kind.name, kind.window_ms, delays, follow, weights))
    origin = f"event files {paths.shown(features.path)} and {paths.shown(actions.path)}"
    return Observed(
        origin, int(until), tuple(observed), followed_to_horizon=False, notes=tuple(notes)
    )


def _impressions(
    source: FilesSource, texts: Texts | None, notes: list[str], *, by_request: bool
) -> tuple[list[str], Floats]:
    """For each impression: what an action must name, and the time of its request.

    If a request shows an item several times, the lowest position comes last (see `_causes`).
    """
    shown: list[str] = []
    times: list[int] = []
    requests: set[str] = set()
    for request in _records(source, "features", texts, msgspec.json.Decoder(_Request), notes):
        if request.request_id in requests:
            continue
        requests.add(request.request_id)
        key = request.request_id if by_request else request.user_id
        shown += [f"{key}\x00{item.item_id}" for item in reversed(request.items)]
        times += [request.event_time] * len(request.items)
    return shown, np.array(times, dtype=np.float64)


def _actions(
    source: FilesSource,
    texts: Texts | None,
    need_value: set[str],
    notes: list[str],
    *,
    by_request: bool,
) -> tuple[list[str], list[str], Floats]:
    """For each action: what it names, its kind, and its time."""
    named: list[str] = []
    kinds: list[str] = []
    times: list[int] = []
    for action in _records(source, "actions", texts, msgspec.json.Decoder(_Action), notes):
        key = action.request_id if by_request else action.user_id
        # the job rejects such actions; a few of them would distort the delays of a rare kind
        valid = action.value is not None or action.action not in need_value
        if key and valid:
            named.append(f"{key}\x00{action.item_id}")
            kinds.append(action.action)
            times.append(action.event_time)
    return named, kinds, np.array(times, dtype=np.float64)


def _records(
    source: FilesSource,
    stream: Stream,
    texts: Texts | None,
    decoder: msgspec.json.Decoder[_Record],
    notes: list[str],
) -> Iterator[_Record]:
    """The usable records; adds a note where event times are in another unit, as the job says."""
    wrong, first = 0, 0
    latest = LATEST_TIME if source.not_after is None else source.not_after
    for path in find(stream, source.path):
        for raw in _events(stream, path, texts):
            try:
                record = decoder.decode(raw)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                continue
            if not in_bounds(record.event_time):
                first = first if wrong else record.event_time
                wrong += 1
            elif record.event_time <= latest:
                yield record
    if wrong:
        notes.append(
            f"{stream}: {wrong:,} records have an event_time outside of 1971 to 2100 (the first:"
            f" {first}){_unit(first)}; it must be milliseconds since 1970, and they are left out"
        )


def _unit(time: int) -> str:
    for unit, ms in (
        ("seconds", time * 1000),
        ("microseconds", time // 1000),
        ("nanoseconds", time // 1_000_000),
    ):
        if in_bounds(ms):
            return f", which looks like {unit} (the job rejects it as wrong_time_unit)"
    return ""


def _events(stream: Stream, path: Path, texts: Texts | None) -> Iterator[bytes]:
    """The records of a file as docs/events.md has them; `texts`: by which they are mapped."""
    for raw in _lines(stream, path):
        if texts is None:
            yield raw
            continue
        said = texts.of_or_reason(raw, None)
        if isinstance(said, list):
            yield from said


def _lines(stream: Stream, path: Path) -> Iterator[bytes]:
    try:
        for _, raw in event_files.lines(path):
            yield raw
    except event_files.EventFileError as error:
        raise ConfigError(f"sources.{stream}.path: {error}") from None


def _causes(shown: Ints, shown_times: Floats, acted: Ints, action_times: Floats, skew: int) -> Ints:
    """For each action the impression it belongs to, or -1.

    That is the latest showing at or before the action's time (plus the skew). Among positions of
    one request it is the last one of the list.
    """
    n = len(shown)
    codes = np.concatenate([shown, acted])
    times = np.concatenate([shown_times, action_times + skew])
    # at one time impressions come before actions; lexsort is stable
    order = np.lexsort((np.arange(len(codes)) >= n, times, codes))
    latest = np.maximum.accumulate(np.where(order < n, np.arange(len(codes)), -1))
    cause = np.where(latest >= 0, order[latest], -1)
    found = np.full(len(codes), -1, dtype=np.int64)
    found[order] = np.where((cause >= 0) & (codes[cause] == codes[order]), cause, -1)
    return found[n:]


def _first(causes: Ints, action_times: Floats, times: Floats) -> Floats:
    """The delay of the first action of each impression, NaN without one."""
    delays = np.full(len(times), np.nan)
    order = np.argsort(-action_times, kind="stable")  # the earliest is written last, so it stays
    delays[causes[order]] = action_times[order] - times[causes[order]]
    return delays
