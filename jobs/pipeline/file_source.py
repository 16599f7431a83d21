"""The planned chunks of files as a bounded source: read by one reader, or by several.

One reader gives the events in the order of the plan (`file_plan`), with the watermark that follows
from it. Of several readers, each takes the next chunk when it is done with one, and the order is
made again in front of the join (`udfs/jvm/InChunkOrder.java`). The outcome is the same.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa
import xxhash
from pyflink.common import WatermarkStrategy
from pyflink.datastream import DataStream
from pyflink.datastream.data_stream import KeyedStream

from jobs.pipeline import places, sinks
from jobs.pipeline.file_plan import Plan
from schemas.events import BEACON_KEY
from udfs.core import decode_batches
from udfs.core.decode_batches import ReadChunks, ReadFiles
from udfs.core.decode_settings import DecodeSettings
from udfs.operators import batches, shipped
from udfs.operators import jvm as jvm_operators
from udfs.operators.batches import Limits
from udfs.operators.side_outputs import SideOutput

#: The plans of reading files, beside the checkpoints.
PLAN_FILES = "chunks-*.txt"
#: What `udfs/jvm/ChunkSource.java` gives: a chunk, and its number in the plan.
_CHUNK = pa.schema([("chunk", pa.string()), ("number", pa.int64())])


def written(planned: Plan, folder: str) -> str:
    """Where the plan lies as a file, a chunk a line.

    A job that is restored goes on in the plan that it began with: its state has the path. Named by
    its content, a plan is never written over by another.
    """
    text = b"".join(msgspec.json.encode(chunk) + b"\n" for chunk in planned.chunks)
    path = places.below(folder, PLAN_FILES.replace("*", xxhash.xxh64_hexdigest(text)))
    places.write(path, text)
    return path


def read(plan: str, readers: int, settings: DecodeSettings, env: Any) -> DataStream:
    """The events of all chunks (see `decoded`) by so many readers.

    The state of one reader and that of several do not fit each other, so the ids differ: the order
    in front of the join would not know which chunks one reader had read before.
    """
    # In the one thread with what decodes the chunks: thousands of lines would fit into the
    # network's buffers between two threads, and a checkpoint would wait until all are read.
    chunks = env._j_stream_execution_environment.fromSource(
        shipped.ship(env, "ChunkSource")(plan),
        WatermarkStrategy.no_watermarks()._j_watermark_strategy,
        "chunks",
        sinks.type_info(sinks.row_type(_CHUNK)),
    )
    chunks.uid("chunks-of-one" if readers == 1 else "chunks-of-several")
    chunks.setParallelism(readers)
    return decoded(chunks, readers, settings)


def decoded(chunks: Any, readers: int, settings: DecodeSettings) -> DataStream:
    """The events of chunks (rows of a chunk and its number); rejected records beside them.

    One reader gives them in order, with their watermark (`batches.keyed_type`). Those of several
    are of `batches.placed_type`, and go through `in_order`.
    """
    alone = readers == 1
    return batches.records(
        chunks,
        ReadFiles(settings) if alone else ReadChunks(settings),
        uid="read-files",
        columns="sl",
        by_clock=alone,
        placed=not alone,
        counters=decode_batches.counters(),
        side=[SideOutput(table) for table in decode_batches.SIDE_OUTPUTS],
        limits=Limits(steps=1),
        parallelism=readers,
    )


def in_order(events: KeyedStream, settings: DecodeSettings) -> DataStream:
    """The keyed events of several readers in the order of the plan, with the watermark of it."""
    times = [
        str(time)
        for source in map(settings.source, settings.sources)
        for time in (source.out_of_orderness, source.granularity)
    ]
    return jvm_operators.transform(
        events,
        "InChunkOrder",
        batches.keyed_type().get_java_type_info(),
        BEACON_KEY,
        *times,
        uid="in-chunk-order",
        needs=["HeldRows", "OwnKeys", "Packed"],
    )
