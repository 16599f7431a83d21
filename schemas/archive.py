"""The layout of the archive (docs/archive.md): a row for each record of a topic, good or bad."""

from __future__ import annotations

import pyarrow as pa

#: The first columns are the record as Kafka has it; `udfs/jvm/WholeRecords.java` gives them in this
#: order. `timestamp`: epoch ms, -1 if the record has none. A header is an element of `header_keys`
#: and the one at the same index of `header_values`.
_RECORD: tuple[tuple[str, pa.DataType], ...] = (
    ("topic", pa.string()),
    ("partition", pa.int32()),
    ("offset", pa.int64()),
    ("timestamp", pa.int64()),
    ("timestamp_type", pa.string()),
    ("key", pa.binary()),
    ("value", pa.binary()),
    ("header_keys", pa.list_(pa.string())),
    ("header_values", pa.list_(pa.binary())),
)
#: What the decoders of the join say of the value. The first four are null where they reject it; the
#: last two are null where they do not.
_READ: tuple[tuple[str, pa.DataType], ...] = (
    ("event_time", pa.int64()),
    ("request_id", pa.string()),
    ("user_id", pa.string()),
    ("item_ids", pa.list_(pa.string())),
    ("reason", pa.string()),
    ("message", pa.string()),
)

RECORD = pa.schema(_RECORD)
ARCHIVE = pa.schema([*_RECORD, *_READ])
