"""Java classes of ours that are no operators: they go to the cluster in a jar.

An operator goes as text (udfs/operators/jvm.py). An object that a source holds is serialized, so
its class has to be there when the source is read back. The jar is made when the job is submitted,
by the same compiler, and Flink sends it along as it sends a user's jars.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

from pyflink.java_gateway import get_gateway

_SOURCES = Path(__file__).resolve().parents[1] / "jvm"


def ship(env: Any, name: str, replaced: tuple[str, str] = ("", "")) -> Any:
    """The class `udfs/jvm/<name>.java`, which then can be called to make an object.

    `env`: pyflink's environment of the job. `replaced`: a text in the source, and what takes its
    place.
    """
    jvm = get_gateway().jvm
    text = (_SOURCES / f"{name}.java").read_text()
    if replaced[0]:
        text = text.replace(*replaced)
    compiler = jvm.org.codehaus.janino.SimpleCompiler()
    compiler.setParentClassLoader(jvm.java.lang.Thread.currentThread().getContextClassLoader())
    compiler.cook(text)
    classes = compiler.getBytecodes()
    jar = Path(tempfile.mkdtemp(prefix="sample-stitch-")) / f"{name}.jar"
    with zipfile.ZipFile(jar, "w") as archive:
        for class_name in classes.keySet():
            archive.writestr(
                f"{class_name.replace('.', '/')}.class", bytes(classes.get(class_name))
            )
    env.add_jars(jar.as_uri())
    return getattr(jvm, name)
