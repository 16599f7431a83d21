"""The newest parameters in memory: a base and the deltas after it, taken over as they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from configuration.stores import Folder, StorePath
from trainer.serving.format import (
    CURRENT,
    ChecksumError,
    ContentError,
    FileInfo,
    Flags,
    Floats,
    Keys,
    Manifest,
    NothingPublishedError,
    SpecError,
    folder_of,
    must_be_whole,
    read_current,
    read_manifest,
)
from trainer.serving.lookup import Change, Table, one_after_the_other
from trainer.spec import ModelSpec


class View:
    """The parameters at one export, which do not change: a request is ranked with one of them."""

    def __init__(self, manifest: Manifest, tables: dict[str, Table], dense: Floats) -> None:
        self.manifest = manifest
        self.dense = dense
        self._tables = tables

    def lookup(self, table: str, keys: Keys) -> tuple[Floats, Flags]:
        """The values of keys, (keys, width), and whether they have any, (keys,); 0 where not.

        Raises KeyError where there is no such table.
        """
        return self._tables[table].lookup(keys)

    def keys(self, table: str) -> Keys:
        """All keys of a table, ascending. Raises KeyError where there is no such table."""
        found: Keys = self._tables[table].keys.copy()
        return found


class Snapshot:
    """The newest parameters, in memory. `view` is replaced by a refresh, and never changed."""

    def __init__(self, root: Folder, view: View) -> None:
        self._root = root
        self.view = view

    @classmethod
    def open(cls, root: Folder, spec: ModelSpec | None = None) -> Snapshot:
        """Read the newest base of the current run, and the deltas after it.

        `spec`: the model that is expected, or None for any.

        Raises NothingPublishedError, GapError, ContentError and ChecksumError, RunError, SpecError
        (all of them ServingError), OSError.
        """
        return cls(root, _read(root, spec, None))

    def refresh(self) -> bool:
        """Take over what was published since. Returns whether there was anything.

        If the run has changed, or there is a newer base, it begins anew from that base. Raises as
        `open`; `view` then stays as it is, and a later refresh may succeed. A model of another spec
        is refused, in another run too: open a new snapshot for it.
        """
        view = _read(self._root, self.spec, self.view)
        changed = view is not self.view
        self.view = view
        return changed

    @property
    def run_id(self) -> str:
        """The run that the parameters are of."""
        return self.view.manifest.run_id

    @property
    def number(self) -> int:
        """The number of the newest export that is in."""
        return self.view.manifest.number

    @property
    def spec(self) -> ModelSpec:
        """The model."""
        return self.view.manifest.spec

    @property
    def dense(self) -> Floats:
        """The dense parameters, (parameters,)."""
        return self.view.dense

    def lookup(self, table: str, keys: Keys) -> tuple[Floats, Flags]:
        """As `View.lookup`, in the newest view."""
        return self.view.lookup(table, keys)


def _read(root: Folder, spec: ModelSpec | None, known: View | None) -> View:
    """The current export: from `known` by deltas where they are all there is new, else anew."""
    current = read_current(root)
    if current is None:
        raise NothingPublishedError(f"{root / CURRENT} is not there")
    run_id = current.run_id
    folder = folder_of(root, run_id)
    since = -1
    if known and known.manifest.run_id == run_id and known.manifest.number <= current.number:
        since = known.manifest.number
        if since == current.number:
            return known
    chain: list[Manifest] = []  # from the newest back
    for number in range(current.number, since, -1):
        manifest = read_manifest(folder, run_id, number)
        spec = manifest.spec if spec is None else spec
        if manifest.spec != spec:
            raise SpecError(f"export {number} of run {run_id} is of another model")
        chain.append(manifest)
        if manifest.kind == "base":
            break
    else:
        if since < 0:
            raise ContentError(f"run {run_id} has no base up to export {current.number}")
    newest = chain[0]
    anew = chain[-1].kind == "base"
    tables = {}
    for table in newest.spec.tables:
        changes = [
            _read_change(folder, manifest, table.name, table.width) for manifest in chain[::-1]
        ]
        start = Table.empty(table.width) if anew or known is None else known._tables[table.name]
        tables[table.name] = start.changed(one_after_the_other(changes))
    return View(newest, tables, _read_dense(folder, newest))


def _read_change(folder: Folder, manifest: Manifest, table: str, width: int) -> Change:
    """What an export says of a table, all shards together."""
    keys = [np.empty(0, np.uint64)]
    values = [np.empty((0, width), np.float32)]
    removed = [np.empty(0, np.bool_)]
    for part in manifest.parts:
        if part.table != table:
            continue
        content = _read_arrow(folder, part.file)
        expected = pa.schema({"key": pa.uint64(), "values": pa.list_(pa.float32(), width)})
        if content.schema != expected or len(content) != part.rows + part.removed:
            raise ContentError(f"{folder / part.file.name} is not as its manifest and spec say")
        for batch in content.to_batches():
            lists = batch.column("values")
            keys.append(batch.column("key").to_numpy())
            # `values` of a list array does not know of the array's own offset
            flat = lists.values.slice(lists.offset * width, len(lists) * width).to_numpy()
            values.append(flat.reshape(len(lists), width))
            removed.append(lists.is_null().to_numpy(zero_copy_only=False))
            if not np.isfinite(values[-1][~removed[-1]]).all():
                raise ContentError(
                    f"{folder / part.file.name} has a parameter that is not a finite number: it"
                    " was exported by a release that did not check. Export the model anew"
                )
    every = np.concatenate(keys)
    order = np.argsort(every, kind="stable")
    every = every[order]
    if (every[1:] == every[:-1]).any():
        raise ContentError(f"export {manifest.number}: table {table} has a key twice")
    return Change(every, np.concatenate(values)[order], np.concatenate(removed)[order])


def _read_dense(folder: Folder, manifest: Manifest) -> Floats:
    if manifest.dense is None:
        return np.empty(0, np.float32)
    content = _read_arrow(folder, manifest.dense)
    if content.schema != pa.schema({"value": pa.float32()}):
        raise ContentError(f"{folder / manifest.dense.name} is not as its manifest says")
    # a copy: what was read is the file itself
    return np.array(content["value"].to_numpy(), np.float32)


def _read_arrow(folder: Folder, file: FileInfo) -> Any:
    path = must_be_whole(folder, file)
    if isinstance(path, StorePath):
        buffer = pa.py_buffer(path.read_bytes())
    else:
        with pa.memory_map(str(path)) as mapped:
            buffer = mapped.read_buffer()
    if xxhash.xxh3_128_hexdigest(buffer) != file.xxh3_128:
        raise ChecksumError(f"{path} has another checksum than its manifest says")
    try:
        return pa.ipc.open_file(buffer).read_all()
    except pa.ArrowInvalid as error:
        raise ContentError(f"{path}: {error}") from error
