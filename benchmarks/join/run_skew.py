"""One run of skewed traffic through the join: ``python -m benchmarks.join.run_skew CASE``.

The join is the job's own operator, between a source that makes packed events and a blackhole.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from benchmarks.join.flink_options import MANAGED_MB
from benchmarks.join.run_ours import exploded_into
from benchmarks.join.spec import START_MS, Backend
from jobs.pipeline import environment
from jobs.pipeline.config import load
from schemas.events import ActionEvent, Origin, RequestBody, RequestEvent

HOUR = 3_600_000
#: Keys that are active at a time.
ACTIVE = 10
#: Actions of a request of a hot user.
OF_A_REQUEST = 10
_ORIGIN = Origin("made", None, 0)
_RAW = b"x" * 150

Event = tuple[str, RequestEvent | ActionEvent, int]


@dataclass(frozen=True)
class Case:
    """What is made: `total` actions, `size` of them a key; or of `items`, so many impressions in
    all, and `size` a request.

    Of `shape` "pending" the actions come while their request is pending, of "waiting" before it,
    and of "late" when it has settled. "user" is a user with ten actions on each request. "items"
    are requests with one action.
    """

    shape: str
    backend: Backend
    size: int
    total: int
    folder: str = ""

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


class MakeSkew:
    """Makes the events of a number of keys that are active together; a host of
    `udfs/jvm/RecordBatches.java`. Each row of input is the number of such a group.
    """

    def __init__(self, case: Case) -> None:
        self._case = case

    def open(self) -> None:
        """Makes what all requests have."""
        self._pack = pack = msgspec.msgpack.Encoder().encode
        names = [msgspec.Raw(pack(names)) for names in ([], ["f"])]
        items = [f"i{n}" for n in range(self._case.size if self._case.shape == "items" else 5)]
        self._items = items
        self._names, self._features = names, [["x" * 20] * len(items)]
        self._numbers = msgspec.msgpack.Decoder(list[tuple[int]]).decode

    def run(self, batch: bytes) -> bytes:
        """The events of these groups."""
        made = [event for (number,) in self._numbers(batch) for event in self._group(number)]
        return self._pack((False, made, ((), (), ())))

    def _group(self, number: int) -> Iterator[Event]:
        case, start = self._case, START_MS + number * 8 * HOUR
        active = groups(case)[1]
        names = [f"k{number * active + n}" for n in range(active)]
        if case.shape == "items":
            for name in names:
                yield self._request(name, name, start)
                yield self._action(name, name, 0, start + 1, start)
            return
        step = max(1, HOUR // 2 // case.size)
        if case.shape == "user":
            for n in range(case.size):
                at = start + n * step
                for user in names:
                    if n % OF_A_REQUEST == 0:
                        yield self._request(user, f"{user}-{n}", at)
                    yield self._action(user, None, n, at, at - 1)
            return
        requests = [self._request(name, name, start) for name in names]
        if case.shape != "waiting":
            yield from requests
        # what is late comes when the watermark is two hours ahead of its request
        clock = start + 2 * HOUR if case.shape == "late" else start
        for n in range(case.size):
            for name in names:
                yield self._action(name, name, n, start + n * step, clock)
        if case.shape == "waiting":
            yield from requests

    def _request(self, user: str, name: str, at: int) -> Event:
        key = user if self._case.shape == "user" else name
        of_context, of_items = self._names
        body = RequestBody(user, self._items, of_context, [], of_items, self._features)
        return key, RequestEvent(name, at, self._pack(body), _ORIGIN, b""), at

    def _action(self, user: str, request: str | None, n: int, at: int, clock: int) -> Event:
        item = self._items[n % len(self._items)]
        event = ActionEvent(f"e{n}", user, item, request, "click", None, at, _ORIGIN, _RAW)
        return (request or user), event, clock


def groups(case: Case) -> tuple[int, int]:
    """How many groups of keys there are, and how many keys each has."""
    keys = max(1, case.total // case.size)
    active = min(ACTIVE, keys)
    return keys // active, active


def run(case: Case) -> None:
    """To the end of the input."""
    scratch = Path(case.folder)
    config = scratch / "pipeline.toml"
    config.write_text(_pipeline(case))
    pipeline = load(config)
    environment.prepare_process(scratch / "logs")
    from jobs.pipeline import graph, sources
    from udfs.operators import batches, side_outputs

    _, tables = environment.stream_environment(pipeline)
    tables.execute_sql(
        "CREATE TEMPORARY TABLE numbers (i BIGINT) WITH ('connector' = 'datagen',"
        " 'rows-per-second' = '1000000', 'fields.i.kind' = 'sequence',"
        f" 'fields.i.start' = '0', 'fields.i.end' = '{groups(case)[0] - 1}')"
    )
    made = batches.records(
        batches.rows_of(tables, "SELECT i FROM numbers", name="numbers"),
        MakeSkew(case),
        uid="make-events",
        columns="l",
        by_clock=True,
        counters=["made"],
        side=[side_outputs.REJECTED],
        limits=batches.Limits(steps=1),
    )
    joined = graph.join(pipeline, sources.Events(sources.keyed(made), None))
    statements = exploded_into("blackhole", pipeline, joined, tables)
    statements.execute().get_job_client().get_job_execution_result().result()


def _pipeline(case: Case) -> str:
    key = "user_id" if case.shape == "user" else "request_id"
    sources = "".join(
        f'[sources.{stream}]\ntype = "files"\npath = "{stream}"\n'
        for stream in ("features", "actions")
    )
    return (
        f'[join]\nkey = "{key}"\nlate_horizon = "2h"\n[actions.click]\nwindow = "1h"\n'
        f'label = "count"\n[features.f]\ntype = "string"\n{sources}'
        f'[output]\npath = "{case.folder}/out"\n'
        f'[runtime]\nparallelism = 1\nstate_backend = "{case.backend}"\n'
        f'[flink]\n"taskmanager.memory.managed.size" = "{MANAGED_MB}mb"\n'
        f'"state.backend.rocksdb.localdir" = "{case.folder}/rocksdb"\n'
    )


if __name__ == "__main__":
    run(Case(**json.loads(sys.argv[1])))
