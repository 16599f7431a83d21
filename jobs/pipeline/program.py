"""What is particular to a command that starts a job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.pipeline.config import Pipeline
from jobs.pipeline.output_guard import Written
from jobs.pipeline.run_report import Report

console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Program:
    """A command that starts a job."""

    #: Of the module in `jobs`, of its log, and what its lines begin with.
    name: str
    #: What the job is doing, and what it makes, to a person: "joining", "samples".
    doing: str
    makes: str
    written: Written
    #: The pipeline of a file with overrides; `output` is that of the job. Raises ConfigError.
    load: Callable[[Path, Sequence[str]], Pipeline]
    #: The configuration as it lies beside the output, see `config.document`.
    document: Callable[[Path, Sequence[str]], dict[str, object]]
    #: The job, a `jobs.pipeline.graph.Job`: of a pipeline and the two environments of pyflink; the
    #: name of this start, and whether it is to last (see `graph.build`).
    build: Callable[..., Any]
    #: What the counts of a run say: its accumulators, and whether it was restored.
    report: Callable[[Pipeline, dict[str, int], bool], Report]
    #: Whether the timestamps of the input are compared with its events before the start.
    judges_times: bool = True

    def say(self, text: str) -> None:
        """A line for a person."""
        console.print(f"{self.name}: {text}", markup=False, soft_wrap=True)
