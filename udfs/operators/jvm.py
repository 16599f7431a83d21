"""Operators written in Java, without a build: their sources lie in `udfs/jvm/`.

Flink compiles the code that SQL becomes on the task managers, with the compiler it brings along
(Janino). These few sources go the same way, as text in the job graph; so there is no jar of ours to
build, to ship or to keep in step. What an operator does here would cost a Python call, or a
conversion of every field, for each record.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyflink.common import Configuration
from pyflink.datastream import DataStream, OutputTag
from pyflink.java_gateway import get_gateway

_SOURCES = Path(__file__).resolve().parents[1] / "jvm"


def transform(
    stream: DataStream,
    operator: str,
    output_type: Any,
    *references: Any,
    uid: str,
    parallelism: int | None = None,
    needs: Sequence[str] = (),
    own_thread: bool = False,
) -> DataStream:
    """`stream` through the operator class `udfs/jvm/<operator>.java`.

    `output_type` is a Java TypeInformation. `references` go to the operator's constructor: texts,
    or Java objects that can be serialized. `needs`: further classes of `udfs/jvm/` that it uses.
    `own_thread`: it and what is chained to it do not run in the thread of what comes before.
    """
    return TransformedStream(
        stream._j_data_stream,
        operator,
        output_type,
        references,
        uid=uid,
        parallelism=parallelism,
        needs=needs,
        own_thread=own_thread,
    )


def call(name: str, method: str, needs: Sequence[str], *arguments: Any) -> Any:
    """What a static method of the class `udfs/jvm/<name>.java` returns, in this process' JVM.

    `needs`: further classes of `udfs/jvm/` that it uses.
    """
    gateway = get_gateway()
    code = "".join((_SOURCES / f"{one}.java").read_text() for one in (name, *needs))
    compiled = gateway.jvm.org.apache.flink.table.runtime.generated.CompileUtils.compile(
        gateway.jvm.Thread.currentThread().getContextClassLoader(), name, code
    )
    (found,) = (m for m in compiled.getMethods() if m.getName() == method)
    given = gateway.new_array(gateway.jvm.Object, len(arguments))
    for i, argument in enumerate(arguments):
        given[i] = argument
    return found.invoke(None, given)


class TransformedStream(DataStream):
    """What comes out of an operator of ours; see `transform` for the arguments.

    `keyed`: the operator has a state for each key of the stream, which is then a keyed one.
    """

    def __init__(
        self,
        j_stream: Any,
        operator: str,
        output_type: Any,
        references: Sequence[Any],
        *,
        uid: str,
        parallelism: int | None = None,
        needs: Sequence[str] = (),
        own_thread: bool = False,
        keyed: bool = False,
    ) -> None:
        gateway = get_gateway()
        flink = gateway.jvm.org.apache.flink
        array = gateway.new_array(gateway.jvm.Object, len(references))
        for i, reference in enumerate(references):
            array[i] = reference
        generated = flink.table.runtime.generated.GeneratedOperator(
            operator,
            "".join((_SOURCES / f"{name}.java").read_text() for name in (operator, *needs)),
            array,
            Configuration()._j_configuration,
        )
        factory = flink.table.runtime.operators.CodeGenOperatorFactory(generated)
        if own_thread:
            factory.setChainingStrategy(flink.streaming.api.operators.ChainingStrategy.HEAD)
        env = j_stream.getExecutionEnvironment()
        transformation = flink.streaming.api.transformations.OneInputTransformation(
            j_stream.getTransformation(),
            uid.replace("-", " "),
            factory,
            output_type,
            parallelism or env.getParallelism(),
        )
        transformation.setUid(uid)
        if keyed:
            transformation.setStateKeySelector(j_stream.getKeySelector())
            transformation.setStateKeyType(j_stream.getKeyType())
        env.addOperator(transformation)
        self._env, self._transformation = env, transformation
        super().__init__(flink.streaming.api.datastream.DataStream(env, transformation))

    def get_side_output(self, output_tag: OutputTag) -> DataStream:
        """PyFlink's own would send each of its rows through Python."""
        flink = get_gateway().jvm.org.apache.flink.streaming.api
        side = flink.transformations.SideOutputTransformation(
            self._transformation, output_tag.get_java_output_tag()
        )
        return DataStream(flink.datastream.DataStream(self._env, side))
