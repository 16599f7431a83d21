"""What the operators count: Flink metrics while a job runs, accumulators for the report at its end.

Metrics are gone when a task ends. Accumulators are part of the job's result, and the REST API still
shows them afterwards (`/jobs/<id>/accumulators`). The names of both are the same, with a slash
between the parts of an accumulator's name.
"""

from __future__ import annotations

from typing import Any


class Counts:
    """The counters of one subtask. The function that owns it calls `close` in its own `close`."""

    def __init__(self, runtime_context: Any) -> None:
        self._metrics = runtime_context.get_metrics_group()
        # only in thread mode: with runtime.python = "process", Python has no access to the JVM
        self._java = getattr(runtime_context, "_runtime_context", None)
        self._counters: dict[str, tuple[Any, Any]] = {}

    def counter(self, *path: str) -> Any:
        """The metric counter `path[-1]` in the metric groups before it; the same one each time."""
        name = "/".join(path)
        if name not in self._counters:
            group = self._metrics
            for part in path[:-1]:
                group = group.add_group(part)
            total = None if self._java is None else self._java.getLongCounter(name)
            self._counters[name] = (group.counter(path[-1]), total)
        return self._counters[name][0]

    def close(self) -> None:
        """Hand the counts over to the job's result."""
        for metric, total in self._counters.values():
            if total is not None:
                total.add(metric.get_count())
        self._counters = {}
