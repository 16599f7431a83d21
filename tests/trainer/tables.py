"""Iceberg tables over samples, as the job and other tools make them, without Flink (pyiceberg)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyiceberg.catalog.noop import NoopCatalog
from pyiceberg.io import load_file_io
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.serializers import ToOutputFile
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.metadata import new_table_metadata
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.table.update import update_table_metadata
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import NestedField, StringType

from schemas.samples import ICEBERG_TABLE


class Folder(NoopCatalog):
    """Keeps a table as Hadoop's tables are kept: `v<number>.metadata.json`."""

    def commit_table(self, table: Any, requirements: Any, updates: Any) -> CommitTableResponse:
        number = int(Path(table.metadata_location).name[1:].split(".")[0]) + 1
        location = f"{table.metadata.location}/metadata/v{number}.metadata.json"
        made = update_table_metadata(table.metadata, updates, metadata_location=location)
        ToOutputFile.table_metadata(made, table.io.new_output(location), overwrite=True)
        return CommitTableResponse.model_construct(metadata=made, metadata_location=location)


class SamplesTable:
    """A table over the samples of an output. Files are named by their paths in the output."""

    def __init__(self, root: Path) -> None:
        # Hadoop writes `file:` before paths, and nothing in them is quoted
        self.root, self.place = root, f"file:{root}"
        names = NestedField(1, "dt", StringType()), NestedField(2, "hr", StringType())
        parts = [
            PartitionField(n, 999 + n, IdentityTransform(), field.name)
            for n, field in enumerate(names, 1)
        ]
        location = f"{self.place}/{ICEBERG_TABLE}"
        metadata = new_table_metadata(
            Schema(*names), PartitionSpec(*parts), UNSORTED_SORT_ORDER, location, {}
        )
        catalog = Folder("folder")
        first = f"{location}/metadata/v1.metadata.json"
        self.table = Table(("samples",), metadata, first, load_file_io(), catalog)
        (root / ICEBERG_TABLE / "metadata").mkdir(parents=True)
        ToOutputFile.table_metadata(metadata, self.table.io.new_output(first))

    def append(self, *paths: str) -> int:
        """As the job does with files of a checkpoint. The id of the snapshot."""
        with self.table.transaction() as change, change.update_snapshot().fast_append() as snapshot:
            for path in paths:
                snapshot.append_data_file(self._file(path))
        return self._done()

    def change(self, removed: list[str], added: list[str], operation: Operation) -> int:
        """One snapshot that has some files for others."""
        with self.table.transaction() as change:
            snapshot = change.update_snapshot().overwrite()
            for path in removed:
                snapshot.delete_data_file(self._file(path))
            for path in added:
                snapshot.append_data_file(self._file(path))
            snapshot.commit()
            # pyiceberg compacts nothing, so it has no such operation
            made = change._updates[0].snapshot  # type: ignore[union-attr]
            vars(made.summary)["operation"] = operation
        return self._done()

    def compact(self, removed: list[str], added: str) -> int:
        return self.change(removed, [added], Operation.REPLACE)

    def overwrite(self, removed: list[str], added: list[str]) -> int:
        return self.change(removed, added, Operation.OVERWRITE)

    def delete(self, *paths: str) -> int:
        return self.change(list(paths), [], Operation.DELETE)

    def delete_rows(self, path: str) -> int:
        """A file that says which rows are deleted."""
        with self.table.transaction() as change, change.update_snapshot().fast_append() as snapshot:
            snapshot.append_data_file(self._file(path, DataFileContent.POSITION_DELETES))
            made = snapshot._process_manifests

            def of_deletes(manifests: list[Any]) -> list[Any]:
                manifests[0]._data[3] = ManifestContent.DELETES
                return made(manifests)

            snapshot._process_manifests = of_deletes  # type: ignore[method-assign]
        return self._done()

    def expire(self, *snapshots: int) -> None:
        self.table.maintenance.expire_snapshots().by_ids(list(snapshots)).commit()

    def _done(self) -> int:
        snapshot = self.table.metadata.current_snapshot()
        assert snapshot is not None
        return snapshot.snapshot_id

    def _file(self, path: str, content: DataFileContent = DataFileContent.DATA) -> DataFile:
        file = self.root / path
        day, hour = (part.split("=")[1] for part in path.split("/")[-3:-1])
        made = DataFile.from_args(
            content=content,
            file_path=f"{self.place}/{path}",
            file_format=FileFormat.PARQUET,
            partition=Record(day, hour),
            record_count=pq.read_metadata(file).num_rows,
            file_size_in_bytes=file.stat().st_size,
        )
        made.spec_id = self.table.metadata.default_spec_id
        return made
