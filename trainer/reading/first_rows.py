"""The first rows of a folder of samples, in the order in which they are trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from configuration.stores import Folder
from trainer.reading.ledger import EVERYTHING, Ledger, Wanted
from trainer.reading.tables import SampleReader


def first_rows(
    root: Folder,
    layout: pa.Schema,
    columns: Sequence[str],
    rows: int,
    wanted: Wanted = EVERYTHING,
) -> Iterator[pa.Table]:
    """Tables with at most `rows` rows together: from the files that are there now, of
    the partitions that are wanted.

    Raises ReadError.
    """
    ledger = Ledger(layout, wanted=wanted)
    reader = SampleReader(root, columns, expected=layout)
    try:
        for entry in ledger.discover(root):
            if entry.stream == "samples" and entry.rows:
                table = reader.read(entry, 0, min(rows, entry.rows))
                rows -= table.num_rows
                yield table
            if rows <= 0:
                return
    finally:
        reader.close()
