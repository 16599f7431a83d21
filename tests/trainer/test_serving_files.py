"""Exports: what a reader has after any sequence of them, and what it refuses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from trainer.serving.format import (
    ChecksumError,
    ContentError,
    Current,
    ExportExistsError,
    FileInfo,
    GapError,
    Kind,
    Manifest,
    NothingPublishedError,
    RunError,
    ServingError,
    SpecError,
    read_current,
)
from trainer.serving.snapshot import Snapshot
from trainer.serving.write import next_number, prune, publish, write_dense, write_part
from trainer.spec import AdaGrad, Ftrl, ModelSpec, Segment, TableSpec

WIDTHS = {"users": 3, "prices & more": 1}
SPEC = ModelSpec(
    kind="fm",
    heads=("click",),
    slots=(),
    tables=tuple(
        TableSpec(name, (Segment("linear", 1, Ftrl()), Segment("embedding", width - 1, AdaGrad())))
        for name, width in WIDTHS.items()
    ),
)
OTHER_SPEC = msgspec.structs.replace(SPEC, heads=("like",))
MOST = 2**64 - 1

#: By table, by key: the first of its values, the others follow from it; None: removed.
Content = Mapping[str, Mapping[int, float | None]]


def export(
    root: Path,
    number: int,
    kind: Kind,
    content: Content,
    *,
    run: str = "run-a",
    spec: ModelSpec = SPEC,
    shards: int = 2,
    created: int = 0,
) -> Manifest:
    """Write and publish one, its keys spread over shards."""
    parts = []
    for table, rows in content.items():
        for shard in range(shards):
            mine = {k: v for k, v in rows.items() if k % shards == shard}
            kept = {k: v for k, v in mine.items() if v is not None}
            parts.append(
                write_part(
                    *(root / run, number, shard, table),
                    np.array(list(kept), np.uint64),
                    np.array([row(v, WIDTHS[table]) for v in kept.values()], np.float32).reshape(
                        len(kept), WIDTHS[table]
                    ),
                    np.array([k for k, v in mine.items() if v is None], np.uint64),
                )
            )
    manifest = Manifest(
        run_id=run,
        number=number,
        kind=kind,
        parts=tuple(parts),
        dense=write_dense(root / run, number, np.array([number, 0.5], np.float32)),
        step=10 * number,
        event_time=1_000 * number,
        created=created,
        spec=spec,
    )
    publish(root, manifest)
    return manifest


def row(first: float, width: int) -> list[float]:
    return [first + n / 4 for n in range(width)]


def must_be(snapshot: Snapshot, model: Content) -> None:
    for table, width in WIDTHS.items():
        rows = {k: v for k, v in model.get(table, {}).items() if v is not None}
        assert snapshot.view.keys(table).tolist() == sorted(rows)
        absent = [k for k in (0, 7, 1 << 63, MOST) if k not in rows]
        values, found = snapshot.lookup(table, np.array([*rows, *absent], np.uint64))
        assert values.dtype == np.float32
        assert found.tolist() == [True] * len(rows) + [False] * len(absent)
        assert values.tolist() == [
            *(row(v, width) for v in rows.values()),
            *([0.0] * width for _ in absent),
        ]


# few different keys, so that they meet again; the edges of the range are among them
keys = st.sampled_from([0, 1, 2, 3, 5, 1 << 62, (1 << 63) - 1, 1 << 63, MOST - 1, MOST])
values = st.one_of(st.none(), st.integers(-8, 8).map(float))
contents = st.fixed_dictionaries({t: st.dictionaries(keys, values, max_size=8) for t in WIDTHS})
actions = st.lists(
    st.tuples(st.sampled_from(["base", "delta", "delta", "delta", "run"]), contents, st.booleans()),
    max_size=12,
)


@settings(max_examples=examples(60), deadline=None)
@given(actions)
def test_any_sequence_of_exports_gives_what_a_dict_has(
    steps: Sequence[tuple[str, Content, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        export(root, 0, "base", {})
        model: dict[str, dict[int, float | None]] = {table: {} for table in WIDTHS}
        follower = Snapshot.open(root)
        number, run = 0, 0
        for what, content, look in steps:
            if what == "run":
                run, number = run + 1, -1
            number += 1
            if what == "delta":
                for table, rows in content.items():
                    model[table] |= rows
            else:
                model = {t: dict(rows) for t, rows in content.items()}
            kind: Kind = "delta" if what == "delta" else "base"
            export(root, number, kind, content, run=f"run-{run}" if run else "run-a")
            if look:  # else it has several to catch up with
                assert follower.refresh()
                must_be(follower, model)
        follower.refresh()
        for snapshot in (follower, Snapshot.open(root, SPEC)):
            must_be(snapshot, model)
            assert snapshot.number == number
            assert snapshot.dense.tolist() == [number, 0.5]
        assert not follower.refresh()


def test_many_keys_hashed_or_not(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    hashed = np.unique(random.integers(0, MOST, 5_000, dtype=np.uint64, endpoint=True))
    dense = np.arange(1_000_000, 1_005_000, dtype=np.uint64)
    for run, keys_of in (("hashed", hashed), ("dense", dense)):
        shuffled = random.permutation(keys_of)
        half = len(shuffled) // 2
        first = (shuffled[:half] % np.uint64(97)).astype(np.float32)[:, None]
        parts = [
            write_part(tmp_path / run, 0, 0, "prices & more", shuffled[:half], first, dense[:0])
        ]
        publish(
            tmp_path,
            Manifest(
                run_id=run,
                number=0,
                kind="base",
                parts=tuple(parts),
                dense=None,
                step=0,
                event_time=None,
                created=0,
                spec=SPEC,
            ),
        )
        snapshot = Snapshot.open(tmp_path)
        found_values, found = snapshot.lookup("prices & more", shuffled)
        assert found.tolist() == [True] * half + [False] * (len(shuffled) - half)
        assert np.array_equal(found_values[:half], first)
        assert snapshot.dense.shape == (0,)


def test_what_the_manifest_says_is_there(tmp_path: Path) -> None:
    written = export(tmp_path, 0, "base", {"users": {1: 1.0, 2: 2.0, 4: None}})
    export(tmp_path, 1, "delta", {"users": {2: None}})
    snapshot = Snapshot.open(tmp_path)
    assert snapshot.view.manifest.step == 10
    assert (snapshot.run_id, snapshot.number, snapshot.spec) == ("run-a", 1, SPEC)
    assert [(p.shard, p.rows, p.removed) for p in written.parts] == [(0, 1, 1), (1, 1, 0)]
    assert sorted(path.name for path in (tmp_path / "run-a").iterdir()) == [
        "dense-000000.arrow",
        "dense-000001.arrow",
        "export-000000.json",
        "export-000001.json",
        "part-000000-users-0000.arrow",
        "part-000000-users-0001.arrow",
        "part-000001-users-0000.arrow",
        "part-000001-users-0001.arrow",
    ]
    assert read_current(tmp_path) == Current("run-a", 1)


def test_a_view_stays_what_it_is(tmp_path: Path) -> None:
    export(tmp_path, 0, "base", {"users": {1: 1.0, 2: 2.0}})
    snapshot = Snapshot.open(tmp_path)
    before = snapshot.view
    export(tmp_path, 1, "delta", {"users": {1: 5.0, 2: None, 3: 3.0}})
    snapshot.refresh()
    assert before.lookup("users", np.array([1, 2], np.uint64))[0][:, 0].tolist() == [1.0, 2.0]
    must_be(snapshot, {"users": {1: 5.0, 3: 3.0}})


def test_a_current_that_was_set_back_is_followed(tmp_path: Path) -> None:
    export(tmp_path, 0, "base", {"users": {1: 1.0}})
    export(tmp_path, 1, "delta", {"users": {1: 2.0}})
    snapshot = Snapshot.open(tmp_path)
    (tmp_path / "current.json").write_bytes(msgspec.json.encode(Current("run-a", 0)))
    assert snapshot.refresh()
    must_be(snapshot, {"users": {1: 1.0}})


Harm = Callable[[Path], object]


def edit(name: str, **changes: object) -> Harm:
    """Change fields of a manifest."""

    def harm(run: Path) -> None:
        manifest = msgspec.json.decode((run / name).read_bytes())
        (run / name).write_bytes(msgspec.json.encode(manifest | changes))

    return harm


def remove(name: str) -> Harm:
    return lambda run: (run / name).unlink()


def flip(name: str) -> Harm:
    """Another byte in the middle: the size stays."""

    def harm(run: Path) -> None:
        data = bytearray((run / name).read_bytes())
        data[len(data) // 2] ^= 1
        (run / name).write_bytes(data)

    return harm


def cut(name: str) -> Harm:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:-1])


def write(name: str, data: bytes) -> Harm:
    return lambda run: (run / name).write_bytes(data)


def other_part(**changes: object) -> Harm:
    """Change what the manifest says of a part."""

    def harm(run: Path) -> None:
        path = run / "export-000002.json"
        manifest = msgspec.json.decode(path.read_bytes())
        manifest["parts"][0] |= changes
        path.write_bytes(msgspec.json.encode(manifest))

    return harm


def twice(run: Path) -> None:
    path = run / "export-000002.json"
    manifest = msgspec.json.decode(path.read_bytes())
    manifest["parts"] *= 2
    path.write_bytes(msgspec.json.encode(manifest))


def narrow(run: Path) -> None:
    """A part of another width, with the right checksum."""
    elsewhere = run / "elsewhere"
    keys_of = np.array([2], np.uint64)
    part = write_part(
        elsewhere, 2, 0, "users", keys_of, np.ones((1, 2), np.float32), np.empty(0, np.uint64)
    )
    (elsewhere / part.file.name).rename(run / part.file.name)
    other_part(**msgspec.to_builtins(part))(run)


PART = "part-000002-users-0000.arrow"


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (remove("export-000001.json"), GapError, "export 1 of run run-a is missing"),
        (remove("export-000002.json"), GapError, "export 2 of run run-a is missing"),
        (remove(PART), ContentError, "is missing"),
        (flip(PART), ChecksumError, "another checksum"),
        (flip("dense-000002.arrow"), ChecksumError, "another checksum"),
        (cut(PART), ChecksumError, "bytes, and not"),
        (edit("export-000002.json", run_id="run-b"), RunError, "export 2 of run run-b"),
        (edit("export-000002.json", number=3), RunError, "export 3 of run run-a"),
        (
            edit("export-000001.json", spec=msgspec.to_builtins(OTHER_SPEC)),
            SpecError,
            "export 1 of run run-a is of another model",
        ),
        (
            edit("export-000002.json", spec=msgspec.to_builtins(OTHER_SPEC)),
            SpecError,
            "is of another model",
        ),
        (edit("export-000002.json", format=2), ContentError, "format 2"),
        (write("export-000002.json", b'{"run_id": 1'), ContentError, "export-000002.json"),
        (write("../current.json", b"[]"), ContentError, "current.json"),
        (other_part(table="items"), SpecError, "items"),
        (other_part(rows=5), ContentError, "not as its manifest and spec say"),
        (
            other_part(file={"name": "../x", "bytes": 1, "xxh3_128": ""}),
            ContentError,
            "not the name of a file",
        ),
        (twice, ContentError, "has a key twice"),
        (narrow, ContentError, "not as its manifest and spec say"),
    ],
)
def test_a_refresh_refuses_and_leaves_what_was(
    tmp_path: Path, harm: Harm, error: type[ServingError], message: str
) -> None:
    export(tmp_path, 0, "base", {"users": {1: 1.0, 2: 2.0}})
    snapshot = Snapshot.open(tmp_path)
    export(tmp_path, 1, "delta", {"users": {1: 3.0}})
    export(tmp_path, 2, "delta", {"users": {2: 4.0}})
    run = tmp_path / "run-a"
    good = {path: path.read_bytes() for path in (*run.iterdir(), tmp_path / "current.json")}

    harm(run)
    view = snapshot.view
    with pytest.raises(error, match=message) as raised:
        snapshot.refresh()
    assert type(raised.value) is error
    assert snapshot.view is view
    must_be(snapshot, {"users": {1: 1.0, 2: 2.0}})
    with pytest.raises(ServingError):
        Snapshot.open(tmp_path, SPEC)

    for path, data in good.items():
        path.write_bytes(data)
    assert snapshot.refresh()
    must_be(snapshot, {"users": {1: 3.0, 2: 4.0}})


def test_a_gap_names_the_number() -> None:
    error = GapError("run-a", 7)
    assert (error.run_id, error.number) == ("run-a", 7)


def test_nothing_published_and_no_base(tmp_path: Path) -> None:
    with pytest.raises(NothingPublishedError):
        Snapshot.open(tmp_path)
    export(tmp_path, 0, "base", {})
    edit("export-000000.json", kind="delta")(tmp_path / "run-a")
    with pytest.raises(ContentError, match="no base"):
        Snapshot.open(tmp_path)


def test_another_model_is_refused_in_a_new_run_too(tmp_path: Path) -> None:
    export(tmp_path, 0, "base", {"users": {1: 1.0}})
    snapshot = Snapshot.open(tmp_path)
    export(tmp_path, 0, "base", {"users": {1: 2.0}}, run="run-b", spec=OTHER_SPEC)
    with pytest.raises(SpecError):
        snapshot.refresh()
    with pytest.raises(SpecError):
        Snapshot.open(tmp_path, SPEC)
    must_be(snapshot, {"users": {1: 1.0}})
    must_be(Snapshot.open(tmp_path), {"users": {1: 2.0}})


def test_a_run_id_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    for run in ("..", "a/b", ""):
        (tmp_path / "current.json").write_bytes(msgspec.json.encode(Current(run, 0)))
        with pytest.raises(ValueError, match="not the name of a folder"):
            Snapshot.open(tmp_path)


def test_what_is_published_does_not_change(tmp_path: Path) -> None:
    manifest = export(tmp_path, 0, "base", {"users": {1: 1.0}})
    with pytest.raises(ExportExistsError):
        export(tmp_path, 0, "base", {"users": {1: 2.0}})
    with pytest.raises(ExportExistsError):
        publish(tmp_path, msgspec.structs.replace(manifest, step=11))
    must_be(Snapshot.open(tmp_path), {"users": {1: 1.0}})


def test_to_publish_again_mends_a_crash_before_the_current_was_set(tmp_path: Path) -> None:
    export(tmp_path, 0, "base", {"users": {1: 1.0}})
    current = (tmp_path / "current.json").read_bytes()
    manifest = export(tmp_path, 1, "delta", {"users": {1: 2.0}})
    (tmp_path / "current.json").write_bytes(current)
    must_be(Snapshot.open(tmp_path), {"users": {1: 1.0}})
    assert next_number(tmp_path, "run-a") == 2
    publish(tmp_path, manifest)
    must_be(Snapshot.open(tmp_path), {"users": {1: 2.0}})
    export(tmp_path, 2, "delta", {})
    publish(tmp_path, manifest)  # long since superseded
    assert read_current(tmp_path) == Current("run-a", 2)


def test_publish_refuses_what_readers_would(tmp_path: Path) -> None:
    manifest = export(tmp_path, 0, "base", {"users": {1: 1.0}})
    with pytest.raises(GapError, match="export 1 of run run-a is missing"):
        export(tmp_path, 2, "delta", {})
    with pytest.raises(ValueError, match="begins with a base"):
        export(tmp_path, 0, "delta", {}, run="run-b")
    missing = msgspec.structs.replace(manifest, number=1, dense=FileInfo("dense-9.arrow", 1, ""))
    with pytest.raises(ContentError, match="is missing"):
        publish(tmp_path, missing)
    assert manifest.dense is not None
    short = msgspec.structs.replace(manifest.dense, bytes=1)
    with pytest.raises(ChecksumError):
        publish(tmp_path, msgspec.structs.replace(manifest, number=1, dense=short))
    assert read_current(tmp_path) == Current("run-a", 0)
    assert next_number(tmp_path, "run-a") == 1
    assert next_number(tmp_path, "run-z") == 0


def test_write_part_refuses_what_does_not_fit(tmp_path: Path) -> None:
    def part(keys_of: list[int], rows: int, removed: list[int]) -> None:
        write_part(
            *(tmp_path, 0, 0, "users", np.array(keys_of, np.uint64)),
            np.zeros((rows, 3), np.float32),
            np.array(removed, np.uint64),
        )

    for keys_of, rows, removed, message in (
        ([1, 2], 3, [], "do not fit"),
        ([1, 1], 2, [], "twice"),
        ([1, 2], 2, [2], "twice"),
    ):
        with pytest.raises(ValueError, match=message):
            part(keys_of, rows, removed)
    with pytest.raises(ValueError, match="one dimension"):
        write_dense(tmp_path, 0, np.zeros((2, 2), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_a_part_is_replaced_until_it_is_published(tmp_path: Path) -> None:
    none = np.empty(0, np.uint64)
    write_part(
        *(tmp_path / "run-a", 0, 0, "users", np.array([9], np.uint64)),
        *(np.ones((1, 3), np.float32), none),
    )
    export(tmp_path, 0, "base", {"users": {1: 1.0}})
    must_be(Snapshot.open(tmp_path), {"users": {1: 1.0}})
    assert not list(tmp_path.rglob("*.tmp"))


def test_prune_keeps_what_the_current_needs(tmp_path: Path) -> None:
    kinds: list[Kind] = ["base", "delta", "base", "delta", "delta", "base", "delta"]
    for number, kind in enumerate(kinds):
        export(tmp_path, number, kind, {"users": {number + 1: 1.0}})
    must_be(Snapshot.open(tmp_path), {"users": {6: 1.0, 7: 1.0}})
    # what a crash left: of an old number, and of the next one
    for name in ("part-000001-users-0007.arrow.77.tmp", "part-000007-users-0000.arrow"):
        (tmp_path / "run-a" / name).write_bytes(b"")

    gone = prune(tmp_path)
    assert {int(path.name.split("-")[1][:6]) for path in gone} == {0, 1}
    assert prune(tmp_path) == []
    left = {path.name for path in (tmp_path / "run-a").iterdir()}
    assert {n for n in range(7) if f"export-{n:06d}.json" in left} == {2, 3, 4, 5, 6}
    assert "part-000007-users-0000.arrow" in left
    assert "part-000001-users-0007.arrow.77.tmp" not in left

    prune(tmp_path, keep_bases=1)
    must_be(Snapshot.open(tmp_path), {"users": {6: 1.0, 7: 1.0}})
    left = {path.name for path in (tmp_path / "run-a").iterdir()}
    assert {n for n in range(7) if f"export-{n:06d}.json" in left} == {5, 6}


def test_prune_removes_older_runs_only(tmp_path: Path) -> None:
    export(tmp_path, 0, "base", {"users": {1: 1.0}}, run="old", created=100)
    export(tmp_path, 0, "base", {"users": {1: 3.0}}, run="newer", created=300)
    export(tmp_path, 0, "base", {"users": {1: 2.0}}, run="now", created=200)
    export(tmp_path, 0, "base", {}, run="unreadable", created=50)
    write("export-000000.json", b"{}")(tmp_path / "unreadable")
    (tmp_path / "current.json").write_bytes(msgspec.json.encode(Current("now", 0)))
    (tmp_path / "about-to").mkdir()
    (tmp_path / "about-to" / "part-000000-users-0000.arrow").write_bytes(b"")

    gone = prune(tmp_path)
    assert {path.parent.name for path in gone} == {"old"}
    assert gone[-1].name == "export-000000.json"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "about-to",
        "newer",
        "now",
        "unreadable",
    ]
    must_be(Snapshot.open(tmp_path), {"users": {1: 2.0}})


def test_prune_refuses_rather_than_guess(tmp_path: Path) -> None:
    assert prune(tmp_path) == []
    export(tmp_path, 0, "base", {})
    export(tmp_path, 1, "base", {})
    with pytest.raises(ValueError, match="keep_bases"):
        prune(tmp_path, keep_bases=0)
    remove("export-000001.json")(tmp_path / "run-a")
    with pytest.raises(GapError):
        prune(tmp_path, keep_bases=1)
    assert (tmp_path / "run-a" / "export-000000.json").exists()
