"""The plan of reading files: whole lines, every byte once, side by side by time."""

from __future__ import annotations

import gzip
import random
import shutil
import tempfile
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configuration.paths import pattern_beside
from configuration.reading import Duration
from jobs.pipeline.config import ConfigError, FilesSource
from jobs.pipeline.file_plan import Plan, plan
from schemas.decoding import readable_time
from schemas.event_files import RangeReader
from schemas.events import STREAMS
from udfs.core.decode_settings import StreamSettings
from udfs.core.file_clock import FileClock

BOUND = 60_000
START = 1_700_000_000_000


def line(time: int) -> str:
    return f'{{"event_time": {START + time}}}\n'


def write(folder: Path, **logs: list[int]) -> Path:
    """Each log in a folder of its own."""
    folder.mkdir()
    for name, times in logs.items():
        (folder / name).mkdir()
        (folder / name / "log.jsonl").write_text("".join(map(line, times)))
    return folder


def planned(
    features: Path,
    actions: Path,
    chunk_bytes: int = 1,
    bound: int = BOUND,
    not_after: int | None = None,
) -> Plan:
    """A chunk per line unless told otherwise."""
    config = features.parent / "pipeline.toml"

    def source(folder: Path) -> FilesSource:
        path = pattern_beside(config, str(folder))
        return FilesSource(path=path, out_of_orderness=Duration(bound), not_after=not_after)

    read = [("features", source(features), readable_time)]
    return plan([*read, ("actions", source(actions), readable_time)], chunk_bytes)


def order(plan: Plan) -> list[tuple[str, str]]:
    return [(c.source, Path(c.path).parent.name) for c in plan.chunks]


def test_streams_and_folders_are_merged_by_time(tmp_path: Path) -> None:
    features = write(tmp_path / "f", a=[100, 200, 300], b=[150, 250])
    actions = write(tmp_path / "a", x=[100], y=[200])
    found = planned(features, actions)
    assert order(found) == [
        ("features", "a"),
        ("actions", "x"),
        ("features", "b"),
        ("features", "a"),
        ("actions", "y"),
        ("features", "b"),
        ("features", "a"),
    ]
    # each ends where another folder of its stream goes on
    limits = [None if c.limit is None else c.limit - START for c in found.chunks]
    assert limits == [150, 200, 200, 250, None, 300, None]
    assert found.warnings == []


def test_a_chunk_without_a_time_goes_after_its_predecessor(tmp_path: Path) -> None:
    features = write(tmp_path / "f", a=[500])
    with (features / "a" / "log.jsonl").open("a") as file:
        file.write("garbage\n")
    (features / "b").mkdir()
    (features / "b" / "log.jsonl").write_text("nothing but garbage\n")
    actions = write(tmp_path / "a", x=[400, 600])
    assert [name for _, name in order(planned(features, actions))] == ["b", "x", "a", "a", "x"]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 40, 10_000])
@pytest.mark.parametrize("packed", [False, True])
def test_chunks_are_whole_lines_and_cover_every_byte_once(
    tmp_path: Path, chunk_bytes: int, packed: bool
) -> None:
    features = write(tmp_path / "f", a=list(range(1000, 1030)), empty=[])
    (features / "b.jsonl").write_bytes(
        b"\xef\xbb\xbf" + line(7).encode() + b"no newline at the end"
    )
    contents = {str(path): path.read_bytes() for path in features.rglob("*.jsonl")}
    if packed:
        for path, content in contents.items():
            Path(path).write_bytes(gzip.compress(content))
    actions = write(tmp_path / "a", x=[1])
    found = [c for c in planned(features, actions, chunk_bytes).chunks if c.source == "features"]
    assert {c.path for c in found} == {path for path, content in contents.items() if content}
    for path in {c.path for c in found}:
        content = contents[path]
        mine = [c for c in found if c.path == path]
        assert b"".join(content[c.start : c.end] for c in mine) == content
        assert all(content[c.end - 1 : c.end] == b"\n" for c in mine[:-1])


def test_one_folder_per_host_is_read_side_by_side(tmp_path: Path) -> None:
    """Hours of one host, then hours of the next one, used to make all of the next one late."""
    for stream in STREAMS:
        for host in range(5):
            folder = tmp_path / stream / f"host{host}"
            folder.mkdir(parents=True)
            with gzip.open(folder / "log.jsonl.gz", "wt") as file:
                file.writelines(line(1000 * n + host) for n in range(2000))
    found = planned(tmp_path / "features", tmp_path / "actions", chunk_bytes=4096)
    assert found.warnings == []
    assert lateness(found, BOUND) == 0


def lateness(plan: Plan, bound: int) -> int:
    """By how much the clock was ahead of a record that was still to come, ms."""
    reader, worst = RangeReader(), 0
    clock = FileClock(dict.fromkeys(STREAMS, StreamSettings(bound, 4 << 20)))
    for chunk in plan.chunks:
        for _, raw in reader.records(chunk.path, chunk.start, chunk.end):
            time = readable_time(raw)
            if time is None:
                continue
            worst = max(worst, clock.now - time)
            clock.shown(chunk.source, time, chunk.limit)
    return worst


@st.composite
def hosts(draw: st.DrawFn) -> dict[str, list[list[int]]]:
    """Per stream some logs of ascending times, each out of order within the bound."""
    seed = draw(st.integers(0, 2**32))
    chance = random.Random(seed)
    made: dict[str, list[list[int]]] = {}
    for stream in STREAMS:
        made[stream] = []
        for _ in range(draw(st.integers(1, 4))):
            start, step = chance.randrange(10**7), chance.choice([1, 100, 10_000, 10**6])
            times = [start + n * step for n in range(chance.randrange(1, 60))]
            late = [max(0, t - chance.randrange(BOUND + 1)) for t in times]
            # no later than BOUND behind the greatest before it
            made[stream].append([chance.choice(pair) for pair in zip(times, late, strict=True)])
    return made


@given(made=hosts(), chunk_bytes=st.sampled_from([1, 60, 200, 2000]))
def test_folders_within_their_bounds_are_never_late_and_the_order_is_theirs_alone(
    made: dict[str, list[list[int]]], chunk_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as root:
        plans = []
        for copy in ("one", "two"):
            for stream, files in made.items():
                folder = Path(root) / copy / stream
                folder.mkdir(parents=True)
                named = list(enumerate(files))
                # the order in which files are made decides how a file system lists them
                for n, times in named if copy == "one" else reversed(named):
                    (folder / f"{n}").mkdir()
                    (folder / f"{n}" / "log.jsonl").write_text("".join(map(line, times)))
            home = Path(root) / copy
            plans.append(planned(home / "features", home / "actions", chunk_bytes))
            assert lateness(plans[-1], BOUND) == 0
            shutil.move(home, Path(root) / f"{copy} is done")
        one, two = (
            [(c.source, Path(c.path).parent.name, c.start, c.end, c.limit) for c in p.chunks]
            for p in plans
        )
        assert one == two
        assert plans[0].warnings == []
        by_file = defaultdict(list)
        for stream, name, start, end, _ in one:
            by_file[stream, name].append((start, end))
        # in the order of the file, without a gap
        assert all(a[1] == b[0] for cuts in by_file.values() for a, b in pairwise(cuts))


def test_a_broken_clock_does_not_move_its_file(tmp_path: Path) -> None:
    ahead, back = 10**13, 5
    features = write(
        tmp_path / "f",
        a=[10**6 + n for n in range(0, 100_000, 100)],
        b=[10**6 + n + 7 for n in range(0, 100_000, 100)],
    )
    text = (features / "a" / "log.jsonl").read_text().splitlines(keepends=True)
    text[300] = line(ahead)
    text[600] = line(back)
    (features / "a" / "log.jsonl").write_text("".join(text))
    actions = write(tmp_path / "a", x=[10**6])
    found = planned(features, actions, chunk_bytes=len(line(10**6)) * 5, not_after=START + 10**9)
    names = [name for _, name in order(found)]
    # a and b go on by turns
    assert max(len(run) for run in "".join(names).replace("x", "").split("b")) <= 3
    assert max(len(run) for run in "".join(names).replace("x", "").split("a")) <= 3


def test_what_goes_back_too_far_is_said(tmp_path: Path) -> None:
    features = write(tmp_path / "f", a=[200_000, 300_000, 150_000, 160_000, 400_000], b=[1])
    actions = write(tmp_path / "a", x=[300_000, 240_000])
    (said,) = planned(features, actions).warnings
    assert said.startswith("sources.features: 1 file goes back in time by more than")
    assert "out_of_orderness (1 min), up to 2.5 min in " in said
    assert f"{features / 'a' / 'log.jsonl'} at offset {len(line(100_000)) * 2}" in said
    assert planned(features, actions, bound=150_000).warnings == []


def test_the_files_of_a_folder_are_one_log_in_the_order_of_their_names(tmp_path: Path) -> None:
    """As a collector rotates them: what came late is in a later file, and stays late."""
    features = write(tmp_path / "f", a=[100, 900])
    (features / "a" / "log2.jsonl").write_text(line(300) + line(1000))
    actions = write(tmp_path / "a", x=[500])
    found = planned(features, actions, bound=599)
    names = [f"{Path(c.path).parent.name}/{Path(c.path).stem}" for c in found.chunks]
    assert names == ["a/log", "x/log", "a/log", "a/log2", "a/log2"]
    assert [c.limit for c in found.chunks] == [None] * 5
    (said,) = found.warnings
    assert f"{features / 'a' / 'log2.jsonl'} at offset 0" in said
    assert planned(features, actions, bound=600).warnings == []


def test_nothing_to_read_and_damage_are_said(tmp_path: Path) -> None:
    actions = write(tmp_path / "a", x=[1])
    with pytest.raises(ConfigError, match=r"sources.features.path: no event files in .*/none"):
        planned(tmp_path / "none", actions)
    features = write(tmp_path / "f")
    (features / "a.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 1000)[:-4])
    with pytest.raises(ConfigError, match=r"sources.features.path: .*a.jsonl.gz: .* cut short"):
        planned(features, actions)
