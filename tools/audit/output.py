"""What a job has written, read for an audit: finished files only, with where each row lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configuration import stores
from configuration.store_requests import AWS, ObjectStorageSection
from jobs.pipeline.config import ConfigError
from schemas import generations
from schemas.generations import PointerError

_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class File:
    """A finished file; `name` is relative to the output.

    `hour`: of its partition, in hours since 1970 (None where the path names none).
    """

    name: str
    hour: int | None


class Output:
    """The tables under `output.path`, on a disk or on `s3://`."""

    def __init__(self, path: str, store: ObjectStorageSection = AWS) -> None:
        """`store`: the service of `s3://`. Raises ConfigError when there is no output."""
        try:
            self._root = stores.folder(path, store)
            there = self._root.is_dir()
            self._current = generations.current(self._root)
        except (OSError, PointerError) as error:
            raise ConfigError(f"output.path: {error}") from None
        except ValueError:
            raise ConfigError(
                f"output.path: {path} is neither a local folder nor on s3://; mount it"
            ) from None
        if not there:
            raise ConfigError(f"output.path: {path}: there is no such folder; run the job first")

    def files(self, table: str) -> list[File]:
        """Of one table, by name: those that count (`schemas.generations`), as of the beginning.

        Raises ConfigError.
        """
        try:
            found = generations.names(self._root, table, self._current)
        except OSError as error:
            raise ConfigError(f"output.path: {error}") from None
        return [File(name, _hour(PurePosixPath(name))) for name in sorted(found)]

    def read(self, file: File, schema: pa.Schema) -> pa.Table:
        """All columns of the schema; those that the file does not have are null.

        Raises ConfigError for a file that is not Parquet, or of other types.
        """
        try:
            with (self._root / file.name).open("rb") as source:
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
