"""The joining job, whose batches fail when they are told to, when half of a batch is done.

    flink run -py tests/e2e/failing_batches.py FOLDER CONFIG

A file `<where>.due` in FOLDER tells the next batch of two or more to fail there. It does so once:
then `<where>.happened` has how much of that batch was done, and of how much (JSON, two numbers).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

if __package__ in (None, ""):  # as a script, which is how `flink run -py` starts it
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec

from jobs import join_samples
from udfs.core.decode_batches import DecodeRecords
from udfs.core.join_batches import JoinBatches

#: Python raises an error when it has done half of the batch; or its reply is cut, so that the JVM
#: performs the first half of it: of the events, of the keys' state, of the samples.
Where = Literal["decode-records", "decode-events", "join-steps", "join-state", "join-samples"]
WHERE: Sequence[Where] = get_args(Where)
SAID = "in the middle of a batch, as it was told to"

_pack, _unpack = msgspec.msgpack.encode, msgspec.msgpack.decode


class Failures:
    """What is to fail: files in a folder, which all processes see and which outlast a restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def now(self, where: Where, of: int) -> int:
        """How much of so many is to be done before it fails; 0: it does not fail."""
        done, due = of // 2, self._folder / f"{where}.due"
        if done == 0 or not due.exists():
            return 0
        try:
            taken = due.rename(self._folder / f"{where}.taken")
        except FileNotFoundError:
            return 0  # another subtask was faster
        taken.write_text(json.dumps((done, of)))
        taken.rename(self._folder / f"{where}.happened")
        return done


def cut(reply: bytes, before: Sequence[Any], cut_one: Sequence[Any], number: int) -> bytes:
    """A reply up to the first `number` of what is in the part behind the parts `before`."""
    begin = 1 + sum(len(_pack(part)) for part in before)
    whole = _pack(cut_one)
    assert reply[begin : begin + len(whole)] == whole
    return reply[: begin + len(whole) - sum(len(_pack(one)) for one in cut_one[number:])]


class Decode(DecodeRecords):
    """Decodes the records of Kafka."""

    def __init__(self, *arguments: Any, failures: Failures) -> None:
        super().__init__(*arguments)
        self._failures = failures

    def run(self, batch: bytes) -> bytes:
        records = _unpack(batch)
        if half := self._failures.now("decode-records", len(records)):
            super().run(_pack(records[:half]))
            raise RuntimeError(SAID)
        reply = super().run(batch)
        more, events, _ = _unpack(reply)
        if half := self._failures.now("decode-events", len(events)):
            return cut(reply, [more], events, half)
        return reply


class Join(JoinBatches):
    """Joins keyed events."""

    def __init__(self, *arguments: Any, failures: Failures, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._failures = failures

    def run(self, data: bytes) -> bytes:
        *others, steps = _unpack(data)
        if half := self._failures.now("join-steps", len(steps)):
            super().run(_pack((*others, steps[:half])))
            raise RuntimeError(SAID)
        reply = super().run(data)
        keys, samples, *_ = _unpack(reply)
        if half := self._failures.now("join-state", len(keys)):
            return cut(reply, [], keys, half)
        if half := self._failures.now("join-samples", len(samples)):
            return cut(reply, [keys], samples, half)
        return reply


def main(folder: str, config: str) -> int:
    from jobs.pipeline import graph, sources

    failures = Failures(Path(folder))
    # mypy: what the modules call, under the names that they call it by
    reading: Any = sources
    joining: Any = graph
    reading.DecodeRecords = partial(Decode, failures=failures)
    joining.JoinBatches = partial(Join, failures=failures)
    return join_samples.main(["--config", config])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
