"""What reading a request costs by the kind of its event file, and what reading ahead could save.

    python -m benchmarks.join.file_kinds [--requests 4000] [--repeat 5]

The same requests of 20 items with 8 features in each kind of file, read chunk by chunk as the job
reads them. The kinds take turns in one process. Two things are measured: CPU microseconds a request
to get its line out of the file, and to decode that line; and the time that passes until all is read
and decoded, with the next chunk read in another thread while this one is decoded, as a part of the
time without that thread. Prints the median of the turns, with the least and the most of the ratio.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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


def _read(path: Path, chunks: list[_Chunk]) -> Iterator[tuple[int, bytes]]:
    reader = event_files.RangeReader()
    for start, end in chunks:
        yield start, reader.read(str(path), start, end)


def _read_ahead(path: Path, chunks: list[_Chunk], pool: ThreadPoolExecutor) -> Iterator[Any]:
    parts = _read(path, chunks)
    ahead = pool.submit(next, parts, None)
    while (part := ahead.result()) is not None:
        ahead = pool.submit(next, parts, None)
        yield part


def _decode(decoder: Any, parts: Iterator[tuple[int, bytes]]) -> None:
    for start, data in parts:
        for at, line in event_files.records(data, start):
            decoder.decode(line, Origin("file", None, at))


def main() -> None:
    """Run the command line."""
    options = options_of("file_kinds", 4_000)
    table = Table("file", title=f"A request of {ITEMS} items, by the kind of its file")
    for heading in ("bytes", "µs to read", "µs to decode", "ahead", "least", "most"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(1) as pool:
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
                began = time.process_time_ns()
                parts = list(_read(path, chunks[kind]))
                between = time.process_time_ns()
                _decode(json_decoder(), iter(parts))
                spent = (between - began, time.process_time_ns() - between)
                began = time.perf_counter_ns()
                _decode(json_decoder(), _read(path, chunks[kind]))
                between = time.perf_counter_ns()
                _decode(json_decoder(), _read_ahead(path, chunks[kind], pool))
                ratio = (time.perf_counter_ns() - between) / (between - began)
                if turn:  # the first one fills caches
                    read[kind].append(spent[0] / 1000 / options.requests)
                    decoded[kind].append(spent[1] / 1000 / options.requests)
                    ratios[kind].append(ratio)
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
