"""A snapshot with state of an operator that this release does not have: one line, and no row.

It is made here, of Flink's own classes. One that an older release took would be no better: Flink
compares the ids of the operators, and looks no further.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyflink.java_gateway import get_gateway

from tests.e2e.test_kills import story, visible
from tests.e2e.test_time import hours
from tests.flink import running


def savepoint(folder: Path) -> None:
    """With the state of what wrote the files of samples in releases before 2026-11-26."""
    gateway = get_gateway()
    flink = gateway.jvm.org.apache.flink.runtime
    modes: Any = gateway.jvm.java.lang.Class.forName(
        "org.apache.flink.runtime.state.OperatorStateHandle$Mode"
    ).getEnumConstants()
    offsets = gateway.new_array(gateway.jvm.long, 1)
    info = getattr(flink.state, "OperatorStateHandle$StateMetaInfo")(offsets, modes[0])
    parts = gateway.jvm.java.util.HashMap()
    parts.put("bucket-states", info)
    data = flink.state.memory.ByteStreamStateHandle("written", b"\x00")
    handle = flink.state.OperatorStreamStateHandle(parts, data)
    subtask = flink.checkpoint.OperatorSubtaskState.builder()
    subtask = subtask.setManagedOperatorState(handle).build()
    which = flink.jobgraph.OperatorID(1, 2)
    operator = flink.checkpoint.OperatorState("samples write", "samples-write", which, 1, 128)
    operator.putState(0, subtask)
    operators, masters = gateway.jvm.java.util.ArrayList(), gateway.jvm.java.util.ArrayList()
    operators.add(operator)
    made = flink.checkpoint.metadata.CheckpointMetadata(7, operators, masters)
    out = gateway.jvm.java.io.ByteArrayOutputStream()
    flink.checkpoint.Checkpoints.storeCheckpointMetadata(made, out)
    folder.mkdir()
    (folder / "_metadata").write_bytes(out.toByteArray())


def test_it_is_refused_in_one_line(tmp_path: Path) -> None:
    story(tmp_path, hours(8), compact=False, parallelism=1, interval="1s")
    savepoint(tmp_path / "savepoint-0a1b2c-0")
    done = running.run_module(
        *("jobs.join_samples", "--config", str(tmp_path / "pipeline.toml")),
        *("--restore", str(tmp_path / "savepoint-0a1b2c-0")),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    said = [line for line in done.stderr.splitlines() if "another release" in line]
    assert len(said) == 1, done.stderr
    assert "docs/operations.md" in said[0]
    assert "Traceback" not in done.stderr
    assert not visible(tmp_path)
