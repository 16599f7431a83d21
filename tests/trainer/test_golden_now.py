"""The bytes of what this release writes and release 0.1 did not know (see test_golden.py).

A change here is a change of a format: what is in the field must still be read.
"""

from __future__ import annotations

import io

import msgspec
import numpy as np

from trainer.evaluation.tally import Layout, Tally
from trainer.reading.ledger import Entry
from trainer.reading.planner import Cursor
from trainer.run.session import State
from trainer.server.shard import Push, ShardSnapshot, TablePush
from trainer.server.shard_file import snapshot_from_bytes, snapshot_to_bytes
from trainer.serving.format import Current, FileInfo, Manifest, PartInfo
from trainer.spec import Ftrl, ModelSpec, Segment, Since, Slot, TableSpec
from trainer.table.table import Rows

SINCE = Since(2, 1_600_000_000_000)

#: The state of a run in a checkpoint, with its ledger.
STATE = (
    b'{"entries":[{"stream":"late_actions","path":"late_actions/dt=2023-11-14/hr=23/a.parquet",'
    b'"size":9,"rows":5,"row_groups":[3,2],"absent":["new"]}],'
    b'"cursor":{"entry":0,"row_group":1,"row":2},"step":3,"rows":5,"newest":1700000000000,'
    b'"expired_at":1700000000,"tally":"eA==","names":{"position":["0","1"]},'
    b'"since":{"new":{"step":2,"event_time":1600000000000}}}'
)
EXPORT = (
    b'{"format":1,"run_id":"r","number":2,"kind":"delta","parts":[{"table":"t0","shard":0,"rows":3,'
    b'"removed":1,"file":{"name":"f.arrow","bytes":10,"xxh3_128":"ab"}}],"dense":null,"step":7,'
    b'"event_time":null,"created":1700000000000,"spec":{"kind":"lr","heads":["click"],"slots":[{'
    b'"name":"age","column":"age","encoding":"value","table":0,"boundaries":[],"log1p":true,'
    b'"scale":0.5,"clip":10.0}],"tables":[{"name":"t0","segments":[{"name":"linear","width":1,'
    b'"optimizer":{"type":"ftrl","alpha":0.1,"beta":1.0,"l1":0.0,"l2":0.0},"scale":0.0}],'
    b'"admit_after":1,"expire_after_s":null}],"embedding":0,"hidden":[],"dense":{"type":"adam",'
    b'"rate":0.001,"beta1":0.9,"beta2":0.999,"epsilon":1e-8},"seed":0,"base":[-2.5]},'
    b'"since":{"age":{"step":2,"event_time":1600000000000}}}'
)
#: Arrays of a shard with admission counters, marks and a pushed step that is not complete: type,
#: shape, bytes. `told` is msgpack.
SHARD = {
    "0.keys": ("<u8", (2,), "0100000000000000ffffffffffffffff"),
    "0.touched": ("<u4", (2,), "0500000006000000"),
    "0.dirty": ("|u1", (2,), "0001"),
    "0.state0": ("<f4", (2, 2), "0000003f000000400000803f00004040"),
    "0.removed": ("<u8", (1,), "0100000000000000"),
    "0.sketch": ("<u2", (1, 2), "0100ffff"),
    "dense0": ("<f4", (1,), "0000c03f"),
    "pending1.0": ("<u8", (2,), "0100000000000000ffffffffffffffff"),
    "pending1.1": ("<f4", (2, 1), "0000003f0000803f"),
    "pending1.2": ("<u4", (2,), "0100000002000000"),
    "pending1.3": ("<f4", (1,), "0000803e"),
    "told": (
        "|u1",
        (49,),
        "85a67461626c657301a56d61726b73810192049106a47374657002a564656e736501a770656e64696e67"
        "810194040209c3",
    ),
}
#: The end of a tally: values that were clipped, and rows that were refused.
LIMITED = bytes.fromhex("9281a570726963659202cbc6293e5939a08cea03")


def test_the_state_of_a_run_and_its_ledger() -> None:
    file = "late_actions/dt=2023-11-14/hr=23/a.parquet"
    state = State(
        [Entry("late_actions", file, 9, 5, (3, 2), ("new",))],
        Cursor(0, 1, 2),
        *(3, 5, 1_700_000_000_000, 1_700_000_000),
        b"x",
        {"position": ["0", "1"]},
        {"new": SINCE},
    )
    assert msgspec.json.decode(STATE, type=State) == state
    assert msgspec.json.encode(state) == STATE


def test_the_manifest_of_an_export() -> None:
    linear = TableSpec("t0", (Segment("linear", 1, Ftrl(alpha=0.1)),))
    slot = Slot("age", "age", "value", 0, (), log1p=True, scale=0.5, clip=10.0)
    export = Manifest(
        run_id="r",
        number=2,
        kind="delta",
        parts=(PartInfo("t0", 0, 3, 1, FileInfo("f.arrow", 10, "ab")),),
        dense=None,
        step=7,
        event_time=None,
        created=1_700_000_000_000,
        spec=ModelSpec("lr", ("click",), (slot,), (linear,), base=(-2.5,)),
        since={"age": SINCE},
    )
    assert msgspec.json.decode(EXPORT, type=Manifest) == export
    assert msgspec.json.encode(export) == EXPORT
    assert msgspec.json.encode(Current("r", 2)) == b'{"run_id":"r","number":2}'


def test_a_shard_with_counters_marks_and_a_pending_push() -> None:
    keys = np.array([1, 2**64 - 1], np.uint64)
    states = [np.array([[0.5, 2], [1, 3]], np.float32)]
    gradients, counts = np.array([[0.5], [1]], np.float32), np.array([1, 2], np.uint32)
    push = Push(1, 4, 2, 9, [TablePush(keys, gradients, counts)], np.array([0.25], np.float32))
    data = snapshot_to_bytes(
        ShardSnapshot(
            [Rows(keys, np.array([5, 6], np.uint32), np.array([0, 1], np.uint8), states)],
            [keys[:1]],
            [np.array([[1, 65_535]], np.uint16)],
            [np.array([1.5], np.float32)],
            {1: (4, [6])},
            2,
            {1: push},
        )
    )
    with np.load(io.BytesIO(data)) as arrays:
        written = {n: (a.dtype.str, a.shape, a.tobytes().hex()) for n, a in arrays.items()}
    assert written == SHARD
    read = snapshot_from_bytes(data)
    assert (read.marks, read.step, read.pending[1].sequence) == ({1: (4, [6])}, 2, 4)
    assert snapshot_to_bytes(read) == data


def test_the_limits_in_a_tally() -> None:
    tally = Tally(Layout(("click",), 1_000))
    tally.limited.note("price", 2, -1e30)
    tally.limited.refused = 3
    encoded = tally.encode()
    assert encoded.endswith(LIMITED)
    assert Tally.decode(encoded).limited == tally.limited
