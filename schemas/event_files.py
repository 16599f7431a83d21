"""How events lie in files: a JSON record per line, as plain text or compressed with gzip or zstd.

Avro containers and Parquet files are read as the lines of JSON that say the same.

What a file is, is told by its first bytes, not by its name. A UTF-8 byte-order mark at the start is
passed over, and so are blank lines. Offsets count uncompressed bytes; in files of rows, rows.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypeVar

from backports import zstd

from schemas import row_files
from schemas.row_files import RowFile, RowFileError

#: What the name of an event file ends in, in lower case; one of `COMPRESSED` may follow.
SUFFIXES = (".jsonl", ".ndjson", ".json")
#: The same of files of rows, which are compressed within.
OF_ROWS = (".avro", ".parquet")
COMPRESSED = (".gz", ".zst", ".zstd")
_OTHER_COMPRESSION = (".bz2", ".lz4", ".snappy", ".xz", ".zip")

_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
#: Compressed files that stay half read at once, each with its decoder: some 50 KB for gzip, mostly
#: a few MB for zstd. Beyond that, the one that was not used for longest is decompressed from its
#: start when its turn comes again.
_MAX_HALF_READ = 1024
#: What a row counts for where a chunk is cut: its line has some hundred bytes to a few thousand.
_ROW_BYTES = 1024
#: A longer line is a sign that the file does not hold a record per line.
MAX_LINE_BYTES = 256 << 20

_T = TypeVar("_T")


class EventFileError(Exception):
    """An event file cannot be read. One line: which file, what is wrong, and what to do."""


def named_like_events(name: str) -> bool:
    """Whether a file with this name is read when its folder is.

    Raises EventFileError for the name of an event file in a compression that is not read.
    """
    lower = name.lower()
    if lower.endswith(OF_ROWS):
        return True
    for suffix in _OTHER_COMPRESSION:
        if lower.endswith(suffix) and lower.removesuffix(suffix).endswith(SUFFIXES):
            raise EventFileError(
                f"{readable(name)}: {suffix} files are not read; decompress it, or use gzip or zstd"
            )
    for suffix in COMPRESSED:
        lower = lower.removesuffix(suffix)
    return lower.endswith(SUFFIXES)


def readable(path: str | Path) -> str:
    """A path for a message of one line; one with line breaks and the like as Python writes it."""
    text = str(path)
    return text if text.isprintable() else repr(text)


#: Opens a compressed file: its uncompressed bytes.
_Opener = Callable[["Path | io.RawIOBase"], BinaryIO]


def _gzip(file: Path | io.RawIOBase) -> BinaryIO:
    if isinstance(file, Path):
        return gzip.GzipFile(file)  # type: ignore[return-value]
    return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]


def _zstd(file: Path | io.RawIOBase) -> BinaryIO:
    return zstd.ZstdFile(file)  # type: ignore[return-value]


#: By the first bytes of a file. The second kind of frame of zstd holds no data, and may come first.
_OPENERS: tuple[tuple[bytes, _Opener], ...] = (
    (b"\x1f\x8b", _gzip),
    (b"\x28\xb5\x2f\xfd", _zstd),
    *((bytes([0x50 + n]) + b"\x2a\x4d\x18", _zstd) for n in range(16)),
)


_OF_ROWS = {row_files.AVRO: row_files.AvroFile, row_files.PARQUET: row_files.ParquetFile}


def _opener(path: Path) -> _Opener | type[RowFile] | None:
    """What opens a file that is not plain text; None: it is.

    Raises EventFileError for a file that cannot be read, or that is UTF-16.
    """

    def look() -> bytes:
        with path.open("rb") as file:
            return file.read(4)

    start = _reading(path, look)
    if start[:2] in _UTF_16:
        raise EventFileError(f"{readable(path)}: this is UTF-16 text; convert it to UTF-8")
    if start in _OF_ROWS:
        return _OF_ROWS[start]
    return next((opener for magic, opener in _OPENERS if start.startswith(magic)), None)


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each record, without the line's end. Raises EventFileError."""
    opener = _opener(path)
    if isinstance(opener, type):
        with closing(_open_rows(path, opener)) as rows:
            yield from enumerate(_each(path, rows.lines(0, sys.maxsize)))
        return
    offset = 0
    with _open_text(path, opener) as file:
        while line := _reading(path, file.readline):
            raw = line.removesuffix(b"\n")
            if offset == 0:
                raw = raw.removeprefix(_BOM)
            if raw and not raw.isspace():
                yield offset, raw
            offset += len(line)


def _records(data: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """The same of the bytes of whole lines, which begin at offset `start` of their file."""
    offset = start
    if start == 0 and data.startswith(_BOM):
        first, newline, data = data.partition(b"\n")
        offset = len(first) + len(newline)
        first = first.removeprefix(_BOM)
        if first and not first.isspace():
            yield 0, first
    for line in data.split(b"\n"):
        at, offset = offset, offset + len(line) + 1
        if line and not line.isspace():
            yield at, line


def _open_text(path: Path, opener: _Opener | None) -> BinaryIO:
    if opener is not None:
        return _reading(path, partial(opener, path))
    return _reading(path, lambda: path.open("rb"))


def _open_rows(path: Path, kind: type[RowFile]) -> RowFile:
    return kind(_reading(path, lambda: path.open("rb")))


def _each(path: Path, lines: Iterator[bytes]) -> Iterator[bytes]:
    while (line := _reading(path, partial(next, lines, None))) is not None:
        yield line


def cut(path: Path, chunk_bytes: int) -> Iterator[tuple[int, int, Iterator[bytes]]]:
    """Cut a file into chunks of whole lines: start, end, and the lines between.

    A chunk has `chunk_bytes` bytes, rounded up to a whole line. The lines are read when they are
    asked for, and only until the next chunk is. A compressed file is decompressed once for this;
    of a plain one little is read, and of a file of rows the lines that are asked for. Raises
    EventFileError, also for a compressed file that is damaged or cut short.
    """
    opener = _opener(path)
    if isinstance(opener, type):
        yield from _cut_rows(path, opener, max(1, chunk_bytes // _ROW_BYTES))
        return
    compressed = opener is not None
    size = _reading(path, path.stat).st_size
    start = 0
    with _open_text(path, opener) as file:
        while True:
            if compressed:
                head = _reading(path, partial(file.read, chunk_bytes - 1))
                end = start + len(head)
            else:
                head = b""
                end = min(size, start + chunk_bytes - 1)
                file.seek(end)
            rest = _rest_of_line(path, file, start)
            end += len(rest)
            if end == start:
                return
            if compressed:
                # not splitlines: it splits at a carriage return too, which JSON takes as a blank
                yield start, end, iter(io.BytesIO(head + rest))
            else:
                yield start, end, _lines_between(path, file, start, end)
            start = end


def _cut_rows(
    path: Path, kind: type[RowFile], size: int
) -> Iterator[tuple[int, int, Iterator[bytes]]]:
    with closing(_open_rows(path, kind)) as file:
        number = _reading(path, file.number)
        for start in range(0, number, size):
            end = min(start + size, number)
            # the first line is often all that is asked for
            lines = chain(file.lines(start, start + 1), file.lines(start + 1, end))
            yield start, end, _each(path, lines)


def _rest_of_line(path: Path, file: BinaryIO, start: int) -> bytes:
    rest = _reading(path, partial(file.readline, MAX_LINE_BYTES))
    if len(rest) == MAX_LINE_BYTES:
        raise EventFileError(
            f"{readable(path)}: a line after byte {start:,} is longer than {MAX_LINE_BYTES >> 20}"
            " MiB; an event file holds one JSON record per line"
        )
    return rest


def _lines_between(path: Path, file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    while start < end:
        line = _reading(path, file.readline)
        if not line:
            return
        start += len(line)
        yield line


class RangeReader:
    """Reads chunks of event files.

    Chunks of a compressed file should come in their order: the decoder stays where it is between
    them, without an open file, and passes over what is between them. For one that is further back
    the file is decompressed from its start again. Of a file of rows, what is between two chunks is
    passed over without making its lines.
    """

    def __init__(self) -> None:
        self._half_read: OrderedDict[str, BinaryIO | RowFile] = OrderedDict()

    def records(self, path: str, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Offset and bytes of each record from `start` up to `end`, as `lines` gives them.

        Raises EventFileError, before the first one, if they are not there.
        """
        place = Path(path)
        file: BinaryIO | RowFile | None = self._half_read.pop(path, None)
        if file is None and (opener := _opener(place)) is not None:
            unopened = _Unopened(place)
            file = _reading(place, lambda: opener(unopened))
        if isinstance(file, RowFile):
            rows = list(_each(place, file.lines(start, end)))
            _check_whole(path, "row", start + len(rows), end)
            found: Iterator[tuple[int, bytes]] = zip(range(start, end), rows, strict=True)
        else:
            read = partial(_read_plain, place) if file is None else partial(_read_on, file)
            data = _reading(place, partial(read, start, end - start))
            _check_whole(path, "byte", start + len(data), end)
            found = _records(data, start)
        if file is not None:
            self._half_read[path] = file
            if len(self._half_read) > _MAX_HALF_READ:
                self._half_read.popitem(last=False)
        return found


def _check_whole(path: str, unit: str, ends: int, ended: int) -> None:
    if ends < ended:
        raise EventFileError(
            f"{readable(path)}: ends at {unit} {ends:,}, and had {ended:,} when the"
            " run began. Files must not change while they are read; run the job again"
        )


def _read_plain(path: Path, start: int, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(count)


def _read_on(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)


class _Unopened(io.RawIOBase):
    """A file that is opened for each read only, so that thousands can be half read at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at}.get(whence)
        self._at = offset + (self._path.stat().st_size if start is None else start)
        return self._at

    def read(self, size: int = -1) -> bytes:
        data = _read_plain(self._path, self._at, size)
        self._at += len(data)
        return data


def _reading(path: Path, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except FileNotFoundError:
        raise EventFileError(f"{readable(path)}: there is no such file any more") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError) as error:
        said = "cut short" if isinstance(error, EOFError) else f"damaged ({error})"
        raise EventFileError(
            f"{readable(path)}: this compressed file is {said}; replace it by a whole one"
        ) from None
    except RowFileError as error:
        raise EventFileError(f"{readable(path)}: its rows cannot be read: {error}") from None
    except OSError as error:
        raise EventFileError(
            f"{readable(path)}: cannot be read: {error.strerror or error}"
        ) from None
