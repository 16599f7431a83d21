"""Operators that call Python in batches: their Java sources are in `udfs/jvm/`.

They run Python in the process of the task manager, as PyFlink's thread mode does. They are
subclasses of Flink's embedded Python operator, which prepares what `-pyfs` and archives bring
along, and shares the interpreter with the other operators of the process.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
from pyflink.common import Types
from pyflink.datastream import DataStream
from pyflink.datastream.data_stream import KeyedStream
from pyflink.java_gateway import get_gateway

from schemas.formats import framing
from udfs.core.batch_reply import LABELS
from udfs.operators import jvm
from udfs.operators.side_outputs import SideOutput


@dataclass(frozen=True)
class Limits:
    """What a batch takes at most: steps (events, timers, watermarks), bytes of events, and the time
    that a step waits (ms).
    """

    delay_ms: int = 50
    steps: int = 200
    size: int = 256 * 1024


def _counters(names: Sequence[str]) -> str:
    """As `Reports.java` reads them: first the labels of counters (`name:label,label`)."""
    labels = (f"{name}:{','.join(of)}" for name, of in LABELS.items())
    return " ".join((*labels, *names))


def _hosted(
    j_stream: Any, host: Any, limits: Limits, counters: Sequence[str], side: Sequence[SideOutput]
) -> list[Any]:
    """The references that `Hosted.java` reads."""
    return [
        python_configuration(j_stream.getExecutionEnvironment()),
        cloudpickle.dumps(host),
        str(limits.steps),
        str(limits.size),
        str(limits.delay_ms),
        _counters(counters),
        " ".join(output.letters for output in side),
        *(output.tag().get_java_output_tag() for output in side),
    ]


def packed_type() -> Any:
    """Packed records, which only the JVM reads."""
    return Types.PRIMITIVE_ARRAY(Types.BYTE()).get_java_type_info()


def keyed(
    stream: KeyedStream,
    host: Any,
    *,
    uid: str,
    entries: str,
    log: str,
    only_own_entry: bool,
    counters: Sequence[str],
    side: Sequence[SideOutput],
    limits: Limits,
    deadline_span: int,
) -> DataStream:
    """Keyed events through `host`, a `udfs.core.join_batches.JoinBatches`; packed records come out.

    `entries` and `log` are the names of the state. `only_own_entry`: a key has at most the entry
    that is named like it. `counters`: all that there are, with the values of their labels. `side`:
    the side outputs, by the index that a reply names them with. `deadline_span`: how exactly the
    gauge of the oldest deadline tells deadlines apart (ms).
    """
    j_stream = stream._j_data_stream
    return jvm.TransformedStream(
        j_stream,
        "KeyedBatches",
        packed_type(),
        [
            *_hosted(j_stream, host, limits, counters, side),
            entries,
            log,
            "own" if only_own_entry else "all",
            str(deadline_span),
        ],
        uid=uid,
        needs=("Hosted", "Packed", "Pickled", "Packing", "Reports", "Levels", "Moment", "Largest"),
        keyed=True,
    )


def records(
    rows: Any,
    host: Any,
    *,
    uid: str,
    columns: str,
    by_clock: bool,
    counters: Sequence[str],
    side: Sequence[SideOutput],
    limits: Limits,
    placed: bool = False,
    parallelism: int | None = None,
) -> DataStream:
    """Rows of a table (see `rows_of`) through `host`, such as those of `udfs.core.decode_batches`;
    keyed events (`keyed_type`) come out.

    `columns`: a letter each, s: text, b: bytes, i: int, l: long, t: timestamp. `by_clock`: the
    watermark is that of the events, not the source's. `placed`: the events are of `placed_type`,
    and their time is their clock.
    """
    of_events = placed_type() if placed else keyed_type()
    return jvm.TransformedStream(
        rows,
        "RecordBatches",
        of_events.get_java_type_info(),
        [
            *_hosted(rows, host, limits, counters, side),
            columns,
            "clock" if by_clock else "places" if placed else "source",
        ],
        uid=uid,
        parallelism=parallelism,
        needs=("UnkeyedBatches", "Hosted", "Packed", "Packing", "Reports"),
    )


def whole_records(
    records: DataStream,
    host: Any,
    row_type: Any,
    *,
    uid: str,
    counters: Sequence[str],
    limits: Limits,
    times: tuple[int, int],
) -> DataStream:
    """Kafka's records through `host`, a `udfs.core.archive_batches.ReadRecords`; internal rows of
    `row_type` (a Java TypeInformation) come out: `schemas.archive.ARCHIVE`, then the partition.

    `times`: the first record timestamp that is one, and the first after it that is none (epoch ms).
    """
    j_stream = records._j_data_stream
    return jvm.TransformedStream(
        j_stream,
        "ArchiveBatches",
        row_type,
        [*_hosted(j_stream, host, limits, counters, ()), *map(str, times), framing.HEADER],
        uid=uid,
        needs=("UnkeyedBatches", "Hosted", "Packed", "Packing", "Reports"),
    )


def rows_of(tables: Any, query: str, *, name: str, uid: str | None = None) -> Any:
    """The rows of a query as a Java stream, in Flink's internal format: nothing is converted.

    Its operators are called after `name`: Flink would number them (`Calc[10]`), and the numbers,
    which are labels of metrics, change with the graph. `uid`: what the ids of the operators begin
    with; without it they are Flink's, which are numbers, too: state would go to another source when
    one is added before it.
    """
    table = tables.sql_query(query)._j_table
    internal = get_gateway().jvm.java.lang.Class.forName("org.apache.flink.table.data.RowData")
    wanted = table.getResolvedSchema().toPhysicalRowDataType().bridgedTo(internal)
    rows = tables._j_tenv.toDataStream(table, wanted)
    transformation, names = rows.getTransformation(), [f"{name} rows", f"{name} columns"]
    for at in itertools.count():
        inputs = transformation.getInputs()
        if uid is not None:
            transformation.setUid(f"{uid}-source" if inputs.isEmpty() else f"{uid}-columns-{at}")
        if inputs.isEmpty():
            transformation.setName(f"{name} source")
            return rows
        transformation.setName(names.pop(0) if names else f"{name} conversion")
        transformation = inputs.get(0)
    raise AssertionError("unreachable")


def keyed_type() -> Any:
    """Key, packed event."""
    return Types.ROW_NAMED(["key", "event"], [Types.STRING(), Types.PRIMITIVE_ARRAY(Types.BYTE())])


def placed_type() -> Any:
    """Key, packed event, and the place that it comes from: see `udfs/jvm/InOrder.java`."""
    types = [Types.STRING(), Types.PRIMITIVE_ARRAY(Types.BYTE()), Types.LONG()]
    return Types.ROW_NAMED(["key", "event", "place"], types)


def python_configuration(j_env: Any) -> Any:
    """What an operator has to know to start Python, from the configuration of the environment.

    PyFlink gives this to its own operators when a job is submitted, and only to them.
    """
    python = get_gateway().jvm.org.apache.flink.python
    options = j_env.getConfiguration()
    dependencies = python.util.PythonDependencyUtils.configurePythonDependencies(options)
    return python.PythonConfig(options, dependencies).toConfiguration()
