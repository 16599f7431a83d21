"""What a job has written, read for an audit: finished files only, with where each row lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from jobs.pipeline.config import ConfigError
from schemas import generations
from schemas.generations import POINTER, Current, PointerError

_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class File:
    """A finished file; `name` is relative to the output.

    `hour`: of its partition, in hours since 1970 (None where the path names none).
    """

    name: str
    path: str
    hour: int | None


class Output:
    """The tables under `output.path`, local or on any file system that Arrow reads."""

    def __init__(self, path: str) -> None:
        """Raises ConfigError when there is no output."""
        try:
            if "://" in path:
                self._files, self._root = fs.FileSystem.from_uri(path)
            else:
                self._files, self._root = fs.LocalFileSystem(), path
            info = self._files.get_file_info(self._root)
        except (OSError, pa.ArrowInvalid) as error:
            raise ConfigError(f"output.path: {path}: {error}") from None
        if info.type != fs.FileType.Directory:
            raise ConfigError(f"output.path: {path}: there is no such folder; run the job first")
        self._current = self._read_pointer()

    def _read_pointer(self) -> Current:
        path = f"{self._root}/{POINTER}"
        try:
            if self._files.get_file_info(path).type == fs.FileType.NotFound:
                return Current()
            with self._files.open_input_file(path) as source:
                return generations.decode(source.read(), path)
        except (OSError, PointerError) as error:
            raise ConfigError(f"output.path: {error}") from None

    def files(self, table: str) -> list[File]:
        """Of one table, by name: those that count (`schemas.generations`), as of the beginning."""
        found = []
        for place in self._current.places(table):
            selector = fs.FileSelector(
                f"{self._root}/{place}", allow_not_found=True, recursive=True
            )
            for info in self._files.get_file_info(selector):
                name = PurePosixPath(info.path).relative_to(self._root)
                if info.type == fs.FileType.File and self._current.takes(str(name)):
                    found.append(File(str(name), info.path, _hour(name)))
        return sorted(found, key=lambda file: file.name)

    def read(self, file: File, schema: pa.Schema) -> pa.Table:
        """All columns of the schema; those that the file does not have are null.

        Raises ConfigError for a file that is not Parquet, or of other types.
        """
        try:
            with self._files.open_input_file(file.path) as source:
                table = pq.ParquetFile(source).read()
            columns = [
                table[field.name].cast(field.type)
                if field.name in table.column_names
                else pa.nulls(len(table), field.type)
                for field in schema
            ]
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"output.path: {file.name} cannot be read: {error}") from None
        return pa.table(columns, schema=schema)

    def rows(self, table: str, schema: pa.Schema) -> Iterator[tuple[File, dict[str, Any]]]:
        """Of a table that is small enough to be looked at row by row."""
        for file in self.files(table):
            for row in self.read(file, schema).to_pylist():
                yield file, row


def hour_of(time_ms: int | None) -> int:
    """The partition of a time, in hours since 1970; without a time, the first."""
    return (time_ms or 0) // _HOUR_MS


def _hour(name: PurePosixPath) -> int | None:
    parts = dict(part.split("=", 1) for part in name.parts if "=" in part)
    try:
        moment = datetime.fromisoformat(f"{parts['dt']}T{parts['hr']}:00").replace(
            tzinfo=timezone.utc
        )
    except (KeyError, ValueError):
        return None
    return int(moment.timestamp()) // 3600
