"""Which files of an output are its rows, by the pointer (docs/sample-format.md, Generations)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import generations
from schemas.generations import Current, Generation, PointerError
from tests.partitions import partition_of
from tools.audit.output import Output
from tools.list_files.command import main

HOURS = [f"2026-11-01T{hour:02}" for hour in range(6)]


def generation(folder: str, first: int, end: int, *rejected: str) -> Generation:
    return Generation(
        folder=folder,
        first=HOURS[first],
        end=HOURS[end],
        published="2026-11-26T20:00:00+00:00",
        rejected=rejected,
    )


def put(output: Path, *names: str) -> None:
    for name in names:
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def at(hour: int) -> str:
    return partition_of(HOURS[hour])


def taken(output: Path, table: str) -> list[str]:
    found = [p.relative_to(output).as_posix() for p in generations.files(output, table)]
    # the audit must take the same
    assert sorted(found) == [file.name for file in Output(str(output)).files(table)]
    return found


def test_without_a_pointer_the_folders_are_read_as_they_stand(tmp_path: Path) -> None:
    put(tmp_path, f"samples/{at(0)}/a.parquet", f"samples/{at(0)}/_SUCCESS", "samples/b.parquet")
    put(tmp_path, f"samples/{at(1)}/.a.inprogress", f"_generations/g/samples/{at(0)}/c.parquet")
    assert set(taken(tmp_path, "samples")) == {f"samples/{at(0)}/a.parquet", "samples/b.parquet"}


def test_a_generation_holds_its_hours_alone(tmp_path: Path) -> None:
    for hour in range(4):
        put(tmp_path, f"samples/{at(hour)}/live.parquet")
    for made in ("g1", "g2"):
        for hour in range(4):
            put(tmp_path, f"_generations/{made}/samples/{at(hour)}/anew.parquet")
    put(tmp_path, f"_generations/g1/samples/{at(1)}/.half", f"_generations/g1/samples/{at(1)}/_x")
    of = [generation("_generations/g1", 1, 3), generation("_generations/g2", 2, 3)]
    (tmp_path / generations.POINTER).write_bytes(generations.encode(of))
    assert taken(tmp_path, "samples") == [
        f"samples/{at(0)}/live.parquet",
        f"_generations/g1/samples/{at(1)}/anew.parquet",
        f"_generations/g2/samples/{at(2)}/anew.parquet",
        f"samples/{at(3)}/live.parquet",
    ]
    # of an hour that it holds and has no files for, there are no rows
    assert taken(tmp_path, "late_actions") == []


def test_rejects_that_came_since_are_added(tmp_path: Path) -> None:
    put(tmp_path, f"rejected/{at(1)}/before.parquet", f"rejected/{at(1)}/since.parquet")
    put(tmp_path, f"samples/{at(1)}/since.parquet", f"_generations/g/rejected/{at(1)}/a.parquet")
    of = [generation("_generations/g", 1, 2, f"rejected/{at(1)}/before.parquet")]
    (tmp_path / generations.POINTER).write_bytes(generations.encode(of))
    assert set(taken(tmp_path, "rejected")) == {
        f"rejected/{at(1)}/since.parquet",
        f"_generations/g/rejected/{at(1)}/a.parquet",
    }
    assert taken(tmp_path, "samples") == []


@given(
    made=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=5),
    hour=st.integers(0, 5),
)
def test_exactly_one_place_holds_an_hour(made: list[tuple[int, int]], hour: int) -> None:
    of = Current([generation(f"_generations/g{n}", *span) for n, span in enumerate(made)])
    paths = [f"{place}/{at(hour)}/x.parquet" for place in of.places("samples")]
    holders = [path for path in paths if of.takes(path)]
    last = [n for n, (first, end) in enumerate(made) if first <= hour < end][-1:]
    folder = f"_generations/g{last[0]}/" if last else ""
    assert holders == [f"{folder}samples/{at(hour)}/x.parquet"]
    decoded = generations.decode(generations.encode(of.generations))
    assert list(decoded.generations) == of.generations


@pytest.mark.parametrize("text", [b"", b"{", b'{"format": 2, "generations": []}', b"[]"])
def test_a_pointer_that_is_not_understood_is_an_error(tmp_path: Path, text: bytes) -> None:
    (tmp_path / generations.POINTER).write_bytes(text)
    with pytest.raises(PointerError, match=generations.POINTER):
        generations.files(tmp_path, "samples")


def test_the_files_are_listed_for_other_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, f"samples/{at(0)}/a.parquet", f"samples/{at(1)}/a.parquet")
    put(tmp_path, f"_generations/g/samples/{at(1)}/b.parquet")
    (tmp_path / generations.POINTER).write_bytes(
        generations.encode([generation("_generations/g", 1, 2)])
    )
    assert main([str(tmp_path)]) == 0
    names = [f"samples/{at(0)}/a.parquet", f"_generations/g/samples/{at(1)}/b.parquet"]
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path}/{name}" for name in names]
    assert main([str(tmp_path), "late_actions"]) == 0
    assert capsys.readouterr().out == ""
    assert main([str(tmp_path / "none")]) == 2
    assert main(["hdfs://name/out"]) == 2
    assert "neither a local folder nor on s3://" in capsys.readouterr().err
    assert main(["s3://bucket/out", "--endpoint", "127.0.0.1:9000"]) == 2
    assert "--endpoint: 127.0.0.1:9000 is not" in capsys.readouterr().err
    (tmp_path / generations.POINTER).write_bytes(b"{")
    assert main([str(tmp_path)]) == 2
    assert generations.POINTER in capsys.readouterr().err
