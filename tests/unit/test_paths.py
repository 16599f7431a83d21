"""Paths of a configuration: relative to its file, whatever characters they hold."""

from __future__ import annotations

import glob
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from configuration import paths
from jobs.pipeline.config import ConfigError
from jobs.pipeline.file_plan import find

#: What a file system takes in a name; no slash, no NUL, and no name of more than 200 bytes.
names = st.text(
    st.one_of(
        st.sampled_from("[]*?!{}'\"`\\\n\t %$=:;~#._-aé価"),
        st.characters(codec="utf-8", exclude_characters="/\0"),
    ),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in (".", "..") and len(name.encode()) <= 200)
visible = names.filter(lambda name: name[0] not in "._")


@given(above=names, folder=visible, file=visible)
def test_a_file_is_found_under_any_name(above: str, folder: str, file: str) -> None:
    assume(folder[0] != "~")
    with tempfile.TemporaryDirectory() as root:
        home = Path(root).resolve() / above
        made = home / folder / f"{file}.jsonl"
        made.parent.mkdir(parents=True)
        made.write_text("{}\n")
        config = home / "pipeline.toml"
        other = Path(root) / "other" / "pipeline.toml"
        for file_, text in (
            (config, folder),
            (config, f"{folder}/{file}.jsonl"),
            (other, str(home / folder)),
            (config, f"{glob.escape(folder)}/*.jsonl"),
            (config, f"{glob.escape(folder)}/**/*"),
            (config, f"../{above}/{folder}"),
        ):
            if above[0] == "~" and text.startswith("~"):
                continue
            pattern = paths.pattern_beside(file_, text)
            assert find("features", pattern) == [made], text
            # a loaded path may be written into another configuration
            assert find("features", paths.pattern_beside(other, pattern)) == [made], text
        assert paths.beside(config, folder) == str(home / folder) or "://" in folder


@given(names)
def test_a_glob_is_shown_as_a_person_writes_it(name: str) -> None:
    assume("[" not in name.replace("[", "", 1) or "]" not in name)
    escaped = glob.escape(f"/{name}")
    assert paths.shown(escaped) == f"/{name}"
    assert paths.is_literal(escaped)


def test_a_folder_that_is_not_there_is_not_taken_for_a_glob(tmp_path: Path) -> None:
    """`br [v1]` as a glob fits the folder `br v`, which somebody else may have."""
    (tmp_path / "br v" / "features").mkdir(parents=True)
    (tmp_path / "br v" / "features" / "a.jsonl").write_text("{}\n")
    config = tmp_path / "br [v1]" / "pipeline.toml"
    config.parent.mkdir()
    for text in ("features", "features/*.jsonl"):
        with pytest.raises(ConfigError, match=r"no event files in .*/br \[v1\]/features"):
            find("features", paths.pattern_beside(config, text))


def test_what_is_no_path_is_said() -> None:
    for place in (paths.beside, paths.pattern_beside):
        with pytest.raises(ValueError, match="NUL"):
            place(Path("/x/pipeline.toml"), "a\0b")
        with pytest.raises(ValueError, match="home"):
            place(Path("/x/pipeline.toml"), "~no-such-user-here/x")


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}\n")


def found(root: Path, text: str) -> list[str]:
    pattern = paths.pattern_beside(root / "pipeline.toml", text)
    return [str(file.relative_to(root)) for file in find("features", pattern)]


def test_which_files_of_a_folder_are_read(tmp_path: Path) -> None:
    read = (
        "in/A.JSONL",
        "in/b.ndjson.gz",
        "in/c.json",
        "in/day.jsonl/part-00000.json",
        "in/day.jsonl/part-00001.json.gz",
        "in/deep/er/d.jsonl",
        "in/z.jsonl.GZ",
    )
    write(tmp_path, *read)
    passed_over = ("in/notes.txt", "in/day.jsonl/_SUCCESS", "in/day.jsonl/.part-00000.json.crc")
    write(tmp_path, *passed_over, "in/_temporary/0/part-00000.json", "in/.hidden/a.jsonl")
    write(tmp_path, "in/_a.jsonl", "in/.a.jsonl", "in/gz", "in/x.gz")
    (tmp_path / "in" / ".#a.jsonl").symlink_to("nobody@host")
    assert found(tmp_path, "in") == sorted(read, key=Path)
    assert found(tmp_path, "in/*.jsonl") == list(read[3:5])
    assert found(tmp_path, "in/**/part*") == list(read[3:5])
    # what a glob asks for by name is read
    assert found(tmp_path, "in/_*.jsonl") == ["in/_a.jsonl"]
    assert found(tmp_path, "in/_temporary/0/*") == ["in/_temporary/0/part-00000.json"]
    assert found(tmp_path, "in/notes.*") == ["in/notes.txt"]
    # also in a hidden folder
    write(tmp_path, "_out/.x/features/a.jsonl")
    assert found(tmp_path / "_out", ".x/features") == [".x/features/a.jsonl"]


def test_links_are_followed_once_and_dangling_ones_are_named(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/a.jsonl", "in/b.jsonl")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "circle").symlink_to(tmp_path / "in")
    assert found(tmp_path, "in") == ["in/b.jsonl", "in/linked/a.jsonl"]
    (tmp_path / "in" / "gone.jsonl").symlink_to(tmp_path / "nothing")
    for text in ("in", "in/*.jsonl"):
        with pytest.raises(ConfigError, match=r"in/gone.jsonl is a link to a file that is not th"):
            found(tmp_path, text)


def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path) -> None:
    write(tmp_path, "bz2/a.jsonl.bz2")
    with pytest.raises(ConfigError, match=r"a.jsonl.bz2: .bz2 files are not read; decompress"):
        found(tmp_path, "bz2")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "a.jsonl")
    with pytest.raises(ConfigError, match=r"pipe/a.jsonl is no file"):
        found(tmp_path, "pipe")
    (tmp_path / "bytes").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "bytes") + b"/a\xff.jsonl")).write_text("{}\n")
    with pytest.raises(ConfigError, match=r"is not UTF-8; rename it"):
        found(tmp_path, "bytes")
    with pytest.raises(ConfigError, match=r"sources.features.path: no event files in .*none"):
        found(tmp_path, "none")
    if os.geteuid() != 0:  # nothing is closed to root
        (tmp_path / "closed").mkdir(mode=0)
        with pytest.raises(ConfigError, match=r"closed: Permission denied"):
            found(tmp_path, "closed")
