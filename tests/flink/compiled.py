"""Java sources of ours as the job compiles them, in PyFlink's gateway, without a job."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyflink.java_gateway import get_gateway

ROOT = Path(__file__).resolve().parents[2]


def static(driver: str, method: str, sources: list[str]) -> Callable[..., Any]:
    """The static method of the class `tests/jvm/<driver>.java`, compiled with `sources`."""
    jvm: Any = get_gateway().jvm
    sources = [(ROOT / f"tests/jvm/{driver}.java").read_text(), *sources]
    # Java wants all imports of a unit at its head.
    imports = sorted({line for s in sources for line in re.findall(r"^import .*;$", s, re.M)})
    classes = [re.sub(r"^import .*;$", "", source, flags=re.M) for source in sources]
    compiled = jvm.org.apache.flink.table.runtime.generated.CompileUtils.compile(
        jvm.Thread.currentThread().getContextClassLoader(),
        driver,
        "\n".join([*imports, *classes]),
    )
    (found,) = [m for m in compiled.getMethods() if m.getName() == method]

    def call(*arguments: Any) -> Any:
        given = get_gateway().new_array(jvm.Object, len(arguments))
        for i, argument in enumerate(arguments):
            given[i] = argument
        return found.invoke(None, given)

    return call


def source(name: str) -> str:
    """The text of `udfs/jvm/<name>.java`."""
    return (ROOT / f"udfs/jvm/{name}.java").read_text()
