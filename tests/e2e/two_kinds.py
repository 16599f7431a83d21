"""The pipeline of stories with clicks that are counted and purchases that are summed up.

Its topics are `<name>-features` and `<name>-actions`. Their records are in order, and never idle.
"""

from __future__ import annotations

from pathlib import Path

from tests.timeline import Rules

_TOML = """
[actions.click]
window = "{window}ms"
label = "count"
[actions.buy]
window = "{window}ms"
label = "sum"
[features.price]
type = "float64"
[sources.features]
type = "kafka"
topic = "{name}-features"
bootstrap_servers = "{servers}"
out_of_orderness = "0s"
idle_timeout = "1h"
[sources.actions]
type = "kafka"
topic = "{name}-actions"
bootstrap_servers = "{servers}"
out_of_orderness = "0s"
idle_timeout = "1h"
[output]
path = "{folder}/out"
[runtime]
checkpoint_interval = "1s"
checkpoint_path = "{folder}/checkpoints"
"""


def toml(window: int, name: str, servers: str, folder: Path) -> str:
    """Its file. `window`: of both kinds (ms)."""
    return _TOML.format(window=window, name=name, servers=servers, folder=folder)


def rules(window: int) -> Rules:
    """What the oracle knows of it."""
    kinds = {"click": window, "buy": window}
    return Rules("request_id", kinds, {"click": "count", "buy": "sum"})
