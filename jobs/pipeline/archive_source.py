"""The archive of all sources as one bounded source, and the one order of what it gives.

Each subtask reads some of the partitions (`udfs/jvm/ArchiveSource.java`). In front of the join all
events are put into the order that their clocks and places say (`udfs/jvm/InOrder.java`), so what is
late follows from the archive alone.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pyflink.common import Duration, WatermarkStrategy
from pyflink.datastream import DataStream
from pyflink.datastream.data_stream import KeyedStream
from pyflink.java_gateway import get_gateway

from jobs.pipeline import archive_files, places, record_format, sinks
from jobs.pipeline.archive_plan import Plan
from jobs.pipeline.config import SourcesSection
from schemas import archive
from schemas.events import BEACON_KEY, LATEST_TIME
from schemas.formats import framing
from udfs.core import decode_batches
from udfs.core.decode_batches import DecodeArchive
from udfs.core.decode_settings import DecodeSettings
from udfs.operators import batches, shipped
from udfs.operators import jvm as jvm_operators
from udfs.operators.batches import Limits
from udfs.operators.side_outputs import SideOutput

#: How often (ms) readers hear how far the slowest has come.
_ALIGNED_EVERY_MS = 100
#: What is read of the files, and beside it where records name their schemas, for that may be in a
#: header; what the source makes of it, with the letters of `batches.records`.
_READ = pa.schema(
    [archive.RECORD.field(n) for n in ("topic", "partition", "offset", "timestamp", "value")]
)
_HEADERS = [archive.RECORD.field(n) for n in ("header_keys", "header_values")]
_GIVEN = pa.schema(
    [
        *(_READ.field(n) for n in ("value", "topic", "partition", "offset", "timestamp")),
        ("source", pa.int32()),
        ("place", pa.int64()),
        ("clock", pa.int64()),
        ("schema_id", pa.binary()),
    ]
)
_LETTERS = "bsillillb"


def decoded(
    sources: SourcesSection,
    plan: Plan,
    settings: DecodeSettings,
    env: Any,
    limits: Limits,
) -> DataStream:
    """The events of all sources, of `batches.placed_type`; rejected records beside them."""
    strategy = WatermarkStrategy.for_monotonous_timestamps().with_watermark_alignment(
        "archive", Duration.of_millis(plan.drift_ms), Duration.of_millis(_ALIGNED_EVERY_MS)
    )
    rows = env._j_stream_execution_environment.fromSource(
        _source(sources, plan, env),
        strategy._j_watermark_strategy,
        "archive source",
        sinks.type_info(sinks.row_type(_GIVEN)),
    ).uid("archive-source")
    return batches.records(
        rows,
        DecodeArchive(settings),
        uid="decode-archive",
        columns=_LETTERS,
        by_clock=False,
        placed=True,
        counters=decode_batches.counters(),
        side=[SideOutput(table) for table in decode_batches.SIDE_OUTPUTS],
        limits=limits,
    )


def in_order(events: KeyedStream, settings: DecodeSettings) -> DataStream:
    """The keyed events in their one order, with the watermark that follows from it."""
    of_sources = [settings.source(source) for source in settings.sources]
    return jvm_operators.transform(
        events,
        "InOrder",
        batches.keyed_type().get_java_type_info(),
        BEACON_KEY,
        str(max(source.out_of_orderness for source in of_sources)),
        str(min(source.granularity for source in of_sources)),
        uid="in-order",
        needs=["HeldRows", "OwnKeys"],
    )


def _source(sources: SourcesSection, plan: Plan, env: Any) -> Any:
    gateway = get_gateway()
    folders = {n.key: places.as_uri(archive_files.folder_of(n)) for n in sources.each}
    numbers = {n.key: number for number, n in enumerate(sources.each)}
    partitions = gateway.new_array(gateway.jvm.String, len(plan.partitions))
    for place, partition in enumerate(plan.partitions):
        source = partition.source
        head = (
            *(place, numbers[source], folders[source]),
            *(partition.topic, partition.partition, partition.records),
        )
        lines = (head, *partition.runs)
        partitions[place] = "\n".join("\t".join(map(str, line)) for line in lines)
    in_headers = any(record_format.names_schemas(named.source.format) for named in sources.each)
    read = sinks.row_type(pa.schema([*_READ, *_HEADERS]) if in_headers else _READ)
    bound = str(max(int(named.source.out_of_orderness) for named in sources.each))
    return shipped.ship(env, "ArchiveSource")(partitions, read, LATEST_TIME, bound, framing.HEADER)
