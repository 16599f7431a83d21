"""What the audit reads of an archive again."""

from __future__ import annotations

from pathlib import Path

from jobs.pipeline.config import ArchiveSource, NamedSource
from schemas.events import Origin
from schemas.formats.framing import HEADER, Framed
from tests.archives import Kept, write
from tools.audit import source

TIME = 1_700_000_000_000


def test_records_of_an_archive_come_by_offset_with_what_names_their_schema(tmp_path: Path) -> None:
    """Of others there is no header, nor of those whose header is null."""
    named: list[tuple[str, bytes | None]] = [("trace", b"x"), (HEADER, b"\0\0\0\0\7")]
    nulls: list[tuple[str, bytes | None]] = [(HEADER, None)]
    headers = {0: named, 1: [], 2: nulls}
    kept = [
        Kept(
            "t",
            partition,
            offset,
            TIME + offset,
            b"v" if offset else None,
            tuple(key for key, _ in headers[offset]),
            tuple(value for _, value in headers[offset]),
        )
        for partition in (0, 1)
        for offset in range(3)
    ]
    write(tmp_path / "features", kept)
    archive = ArchiveSource(path=str(tmp_path))
    found = list(source.records(NamedSource("features", None, archive), []))
    assert [(record.origin, record.time) for record in found] == [
        (Origin("t", partition, offset), TIME + offset)
        for partition in (0, 1)
        for offset in range(3)
    ]
    assert [record.raw for record in found] == [b"", b"v", b"v"] * 2
    with_header = [r.raw.header if isinstance(r.raw, Framed) else None for r in found]
    assert with_header == [b"\0\0\0\0\7", None, None] * 2
