"""Pipelines with a mapping, for tests of it."""

from __future__ import annotations

BASE = """
[actions.click]
window = "10min"
[actions.dwell]
window = "10min"
label = "max"
[features.price]
type = "float64"
[features.hour]
type = "int64"
scope = "context"
[sources.features]
type = "files"
path = "features"
[sources.actions]
type = "files"
path = "actions"
[output]
path = "out"
"""
KAFKA_SOURCES = """
[sources.features]
type = "kafka"
topic = "f"
bootstrap_servers = "b:1"
[sources.actions]
type = "kafka"
topic = "a"
bootstrap_servers = "b:1"
"""


def pipeline_text(events: str, base: str = BASE) -> str:
    """A pipeline's file. `events`: its `[events.*]`."""
    return f"{events}\n{base}"
