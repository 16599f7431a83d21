"""What `--explain` prints: the resolved configuration, without secrets, and Flink's plan."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from jobs.pipeline.config import KafkaSource, Pipeline
from jobs.pipeline.secrets import Secret


def print_explained(pipeline: Pipeline, plan: str) -> None:
    """Print both to standard output. Values from the environment stay out of it."""
    out = Console(highlight=False)
    out.print("configuration", style="bold")
    listed = [(key, value) for key, value in _flat(pipeline) if value != "None"]
    width = max(len(key) for key, _ in listed)
    for key, value in listed:
        out.print(f"  {key:{width}}  {value}", markup=False, soft_wrap=True)
    out.print("\nplan", style="bold")
    out.print(plan, markup=False, soft_wrap=True)


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(value, KafkaSource):
        fields = {n: getattr(value, n) for n in value.__struct_fields__}
        fields["properties"] = dict.fromkeys(value.properties, "(set)")
    elif hasattr(value, "__struct_fields__"):
        fields = {n: getattr(value, n) for n in value.__struct_fields__}
    elif isinstance(value, dict):
        fields = value
    else:
        unit = " ms" if type(value).__name__ == "Duration" else ""
        return [(prefix, "(set)" if isinstance(value, Secret) else f"{value}{unit}")]
    rows: list[tuple[str, str]] = []
    for name, inner in fields.items():
        rows += _flat(inner, f"{prefix}.{name}".lstrip("."))
    return rows
