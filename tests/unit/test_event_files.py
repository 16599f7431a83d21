"""Event files: every line once, with its offset, however it is stored; damage is named."""

from __future__ import annotations

import gzip
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from schemas import event_files
from schemas.event_files import EventFileError

BOM = b"\xef\xbb\xbf"
line = st.sampled_from(
    [b"", b" ", b"\t", b'{"event_time":7}', b'{\r"event_time":7}', b"\xff", b"{}", b"x" * 50]
)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(line, max_size=30))
    ends = [draw(st.sampled_from([b"\n", b"\r\n"])) for _ in lines]
    text = draw(st.sampled_from([b"", BOM])) + b"".join(map(bytes.__add__, lines, ends))
    return text + draw(st.sampled_from([b"", b"{} no newline at the end"]))


def plain(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def compressed(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content))


def members(path: Path, content: bytes) -> None:
    """As `cat a.gz b.gz` makes it, cut anywhere; and with the zeros that tapes pad with."""
    third = len(content) // 3
    parts = content[:third], b"", content[third : 2 * third + 1], content[2 * third + 1 :]
    path.write_bytes(b"".join(map(gzip.compress, parts)) + bytes(20))


def zstandard(path: Path, content: bytes) -> None:
    path.write_bytes(zstd.compress(content))


def frames(path: Path, content: bytes) -> None:
    """As `cat a.zst b.zst` makes it, cut anywhere; the first frame holds no data."""
    third = len(content) // 3
    parts = content[:third], b"", content[third : 2 * third + 1], content[2 * third + 1 :]
    no_data = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    path.write_bytes(no_data + b"".join(map(zstd.compress, parts)))


STORED = (plain, compressed, members, zstandard, frames)


def expected(content: bytes) -> list[tuple[int, bytes]]:
    out, offset = [], 0
    for raw in content.split(b"\n"):
        text = raw[3:] if offset == 0 and raw[:3] == BOM else raw
        if text.strip():
            out.append((offset, text))
        offset += len(raw) + 1
    return out


@pytest.mark.parametrize("store", STORED)
@given(content=contents(), chunk_bytes=st.sampled_from([1, 2, 7, 40, 1000]))
def test_chunks_give_every_line_once(
    store: Callable[[Path, bytes], None], content: bytes, chunk_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        store(path, content)
        assert list(event_files.lines(path)) == expected(content)
        chunks, end = [], 0
        for start, stop, lines in event_files.cut(path, chunk_bytes):
            assert start == end
            chunks.append((start, stop))
            end = stop
            if len(chunks) % 3:  # they need not be read
                # only a newline ends a record: JSON takes a carriage return as a blank
                cut = [part + b"\n" for part in content[start:stop].split(b"\n")]
                cut[-1] = cut[-1][:-1]
                assert list(lines) == [part for part in cut if part]
        assert end == len(content)
        assert all(content[stop - 1 : stop] == b"\n" for _, stop in chunks[:-1])
        assert all(content.rfind(b"\n", a, b - 1) < a + chunk_bytes - 1 for a, b in chunks)
        reader = event_files.RangeReader()
        read = [r for a, b in chunks for r in reader.records(str(path), a, b)]
        assert read == expected(content)
        # as after a restart: from the middle, and back again
        for again in (event_files.RangeReader(), reader):
            for a, b in chunks[len(chunks) // 2 :]:
                found = [(at, raw) for at, raw in expected(content) if a <= at < b]
                assert list(again.records(str(path), a, b)) == found


@pytest.mark.parametrize("compressed", [compressed, zstandard])
def test_many_half_read_files_keep_no_file_open(
    tmp_path: Path, compressed: Callable[[Path, bytes], None]
) -> None:
    content = b'{"event_time":7}\n' * 1000
    for n in range(50):
        compressed(tmp_path / f"{n}.jsonl.gz", content)
    reader = event_files.RangeReader()
    opened = Path("/proc/self/fd")  # where a system has it
    before = len(list(opened.iterdir())) if opened.is_dir() else 0
    for start in range(0, len(content), 1700):
        for n in range(50):
            place = str(tmp_path / f"{n}.jsonl.gz")
            assert len(list(reader.records(place, start, start + 1700))) == 100
        assert not opened.is_dir() or len(list(opened.iterdir())) <= before


def test_what_is_half_read_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_files, "_MAX_HALF_READ", 2)
    content = bytes(range(48, 58)) * 100
    for name in "abc":
        compressed(tmp_path / name, content)
    reader = event_files.RangeReader()
    for start in range(0, 1000, 10):
        for name in "abc":
            found = list(reader.records(str(tmp_path / name), start, start + 10))
            assert found == [(start, content[:10])]
    assert len(reader._half_read) == 2


def damaged(content: bytes) -> dict[str, tuple[bytes, str]]:
    packed = gzip.compress(content)
    # as the program `zstd` does it, and the library does not: with a checksum
    as_zstd = zstd.compress(content, options={int(zstd.CompressionParameter.checksum_flag): 1})
    return {
        "cut short": (packed[:-9], "this compressed file is cut short; replace it"),
        "no trailer": (packed[:-8], "this compressed file is cut short; replace it"),
        "head only": (packed[:5], "this compressed file is cut short; replace it"),
        "bits": (
            packed[:-20] + bytes(12) + packed[-8:],
            "this compressed file is (damaged|cut short)",
        ),
        "crc": (packed[:-8] + b"none" + packed[-4:], "this compressed file is damaged"),
        "garbage after": (packed + b"garbage", "this compressed file is damaged"),
        "zstd cut short": (as_zstd[:-9], "this compressed file is cut short; replace it"),
        "zstd head only": (as_zstd[:5], "this compressed file is cut short; replace it"),
        "zstd bits": (
            as_zstd[:-20] + bytes(12) + as_zstd[-8:],
            "this compressed file is (damaged|cut short)",
        ),
        "zstd checksum": (as_zstd[:-4] + b"none", "this compressed file is damaged"),
        "zstd garbage after": (as_zstd + b"garbage", "this compressed file is damaged"),
        "utf-16": ("{}\n".encode("utf-16"), "this is UTF-16 text; convert it to UTF-8"),
    }


@pytest.mark.parametrize("what", damaged(b""))
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, what: str) -> None:
    content = b"".join(b'{"event_time":%d}\n' % n for n in range(5000))
    path = tmp_path / "a\n.jsonl.gz"
    stored, said = damaged(content)[what]
    path.write_bytes(stored)
    for read in (event_files.lines, lambda path: event_files.cut(path, 1000)):
        with pytest.raises(EventFileError, match=said) as raised:
            list(read(path))
        assert r"a\n.jsonl.gz" in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("store", STORED)
def test_a_file_that_shrinks_or_goes_while_it_is_read(
    tmp_path: Path, store: Callable[[Path, bytes], None]
) -> None:
    # more than the decoder buffers, also when it is compressed
    content = b"".join(b"%s\n" % random.Random(n).randbytes(99).hex().encode() for n in range(5000))
    path = tmp_path / "a.jsonl"
    store(path, content)
    chunks = [(a, b) for a, b, _ in event_files.cut(path, 1990)]
    reader = event_files.RangeReader()
    assert len(list(reader.records(str(path), *chunks[0]))) == content[:1990].count(b"\n")
    store(path, content[:3980])
    with pytest.raises(EventFileError, match=r"ends at byte|damaged|cut short"):
        [list(reader.records(str(path), *chunk)) for chunk in chunks[1:]]
    path.unlink()
    with pytest.raises(EventFileError, match="there is no such file any more"):
        event_files.RangeReader().records(str(path), *chunks[-1])


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_files, "MAX_LINE_BYTES", 1000)
    for store in STORED:
        path = tmp_path / store.__name__
        store(path, b"{}\n" + b"x" * 5000)
        with pytest.raises(EventFileError, match="one JSON record per line"):
            list(event_files.cut(path, 10))


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(EventFileError, match=r"Is a directory"):
        list(event_files.lines(tmp_path))
    if os.geteuid() != 0:  # nothing is closed to root
        plain(tmp_path / "a.jsonl", b"{}\n")
        (tmp_path / "a.jsonl").chmod(0)
        with pytest.raises(EventFileError, match=r"a.jsonl: cannot be read: Permission denied"):
            list(event_files.lines(tmp_path / "a.jsonl"))
