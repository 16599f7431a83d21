"""What reading a request costs by the kind of its event file, and how several readers share it.

    python -m benchmarks.join.file_kinds [--requests 4000] [--repeat 5]

The same requests of 20 items with 8 features in each kind of file, read chunk by chunk as the job
reads them. The kinds take turns in one process. Three things are measured, in CPU time:
microseconds a request to get its line out of the file, and to decode that line; and what a reader
has to do that reads every fourth chunk, as one of four (`runtime.file_readers`), as a part of what
one reader does. Prints the median of the turns; of that part, the least and the most as well.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
from backports import zstd
from rich.console import Console
from rich.table import Table

from benchmarks.join.formats import ITEMS, avsc, json_decoder, options_of, request_lines
from jobs.pipeline.file_plan import CHUNK_BYTES
from schemas import event_files
from schemas.events import Origin

_Chunk = tuple[int, int]


def files(folder: Path, text: bytes) -> dict[str, Path]:
    """A file of each kind with the same requests (JSON lines)."""
    records = [json.loads(line) for line in text.splitlines()]
    for record in records:
        del record["context"]
    found = {
        kind: folder / name
        for kind, name in {
            "plain": "a.jsonl",
            "gzip": "a.jsonl.gz",
            "zstd": "a.jsonl.zst",
            "Avro": "a.avro",
            "Parquet": "a.parquet",
        }.items()
    }
    found["plain"].write_bytes(text)
    found["gzip"].write_bytes(gzip.compress(text, 6))
    found["zstd"].write_bytes(zstd.compress(text))
    with found["Avro"].open("wb") as out:
        fastavro.writer(out, fastavro.parse_schema(avsc()), records, codec="zstandard")
    pq.write_table(pa.Table.from_pylist(records), found["Parquet"], compression="zstd")
    return found


def _read(path: Path, chunks: list[_Chunk]) -> list[tuple[int, bytes]]:
    reader = event_files.RangeReader()
    return [record for start, end in chunks for record in reader.records(str(path), start, end)]


def _decode(decoder: Any, records: list[tuple[int, bytes]]) -> None:
    for at, line in records:
        decoder.decode(line, Origin("file", None, at))


def main() -> None:
    """Run the command line."""
    options = options_of("file_kinds", 4_000)
    table = Table("file", title=f"A request of {ITEMS} items, by the kind of its file")
    for heading in ("bytes", "µs to read", "µs to decode", "of four", "least", "most"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as cache:
        found = files(Path(cache), request_lines(Path(cache), options.requests))
        chunks = {
            kind: [(start, end) for start, end, _ in event_files.cut(path, CHUNK_BYTES)]
            for kind, path in found.items()
        }
        read: dict[str, list[float]] = {kind: [] for kind in found}
        decoded: dict[str, list[float]] = {kind: [] for kind in found}
        ratios: dict[str, list[float]] = {kind: [] for kind in found}
        for turn in range(options.repeat + 1):
            for kind, path in found.items():
                times = [time.process_time_ns()]
                records = _read(path, chunks[kind])
                times.append(time.process_time_ns())
                _decode(json_decoder(), records)
                times.append(time.process_time_ns())
                _decode(json_decoder(), _read(path, chunks[kind][::4]))
                times.append(time.process_time_ns())
                if turn:  # the first one fills caches
                    reading, decoding, fourth = (b - a for a, b in pairwise(times))
                    read[kind].append(reading / 1000 / options.requests)
                    decoded[kind].append(decoding / 1000 / options.requests)
                    ratios[kind].append(fourth / (reading + decoding))
        for kind, path in found.items():
            table.add_row(
                kind,
                f"{path.stat().st_size // options.requests:,}",
                f"{median(read[kind]):.1f}",
                f"{median(decoded[kind]):.1f}",
                *(f"{of(ratios[kind]):.2f}" for of in (median, min, max)),
            )
    Console().print(table)


if __name__ == "__main__":
    main()
