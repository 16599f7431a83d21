"""What do my records become? Decodes a few of them as the job would, and shows it.

    python -m tools.try_mapping --config FILE [--stream features --sample FILE]

Without `--sample` and `--topic` it reads the configured sources. Exit codes: 0 shown, 1 every
record of a stream is rejected, 2 the configuration is wrong, or something cannot be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from configuration.command_line import Overrides, PipelineFile, run
from jobs.pipeline.config import ConfigError, KafkaSource, NamedSource, Pipeline, load
from schemas import event_files
from schemas.formats.declared import RegistryError
from tools.try_mapping.reading import of_json, read
from tools.try_mapping.show import show
from tools.try_mapping.tried import tried

SHOWN, ALL_REJECTED, WRONG = 0, 1, 2


def try_mapping(
    config: PipelineFile,
    overrides: Overrides = None,
    stream: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which stream to look at, features or actions, or which of its sources, such as"
            " features.app; needed for --sample. All by default.",
        ),
    ] = None,
    sample: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read this file (.jsonl, .gz), not the sources."),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Read this topic of the configured brokers."),
    ] = None,
    most: Annotated[
        int, typer.Option("--records", metavar="N", min=1, help="How many records to show.")
    ] = 10,
) -> int:
    """Show what records become by a pipeline's mapping.

    Decodes a few records as the job would (docs/mapping.md): what they become, which are skipped or
    rejected, and why. Exit codes: 0 shown, 1 every record of a stream is rejected, 2 the
    configuration is wrong or something cannot be read.
    """
    errors = Console(stderr=True, highlight=False)
    out = Console(highlight=False)
    try:
        pipeline = load(config, overrides or ())
        pipeline = pipeline if sample is None else of_json(pipeline)
        rejected = [
            _shown(pipeline, named, sample, topic, most, out, errors)
            for named in _sources(pipeline, stream, sample, topic)
        ]
    except (ConfigError, RegistryError, event_files.EventFileError) as error:
        errors.print(f"try-mapping: {error}", markup=False, soft_wrap=True)
        return WRONG
    return ALL_REJECTED if any(rejected) else SHOWN


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run(try_mapping, argv, "python -m tools.try_mapping")


def _shown(
    pipeline: Pipeline,
    named: NamedSource,
    sample: Path | None,
    topic: str | None,
    most: int,
    out: Console,
    errors: Console,
) -> bool:
    """Show records of a source. Whether there are some, and all are rejected."""
    notes: list[str] = []
    there = islice(read(pipeline, named, sample, topic, notes), most)
    found = tried(pipeline.seen_from(named), named.stream, there)
    show(found, out, named.key)
    for note in notes:
        errors.print(f"try-mapping: {note}", markup=False, soft_wrap=True)
    return bool(found.outcomes) and found.rejected == len(found.outcomes)


def _sources(
    pipeline: Pipeline, stream: str | None, sample: Path | None, topic: str | None
) -> Sequence[NamedSource]:
    if sample is not None and topic is not None:
        raise ConfigError("choose one of --sample and --topic")
    each = pipeline.sources.each
    asked = each if stream is None else [n for n in each if stream in (n.stream, n.key)]
    if not asked:
        pipeline.sources.called(str(stream), "--stream")  # which raises
    names = " or ".join(f"--stream {named.key}" for named in asked)
    if sample is not None and len(asked) > 1:
        raise ConfigError(f"--sample needs {names}")
    if topic is None or len(asked) == 1:
        return asked
    of_topic = [n for n in asked if isinstance(n.source, KafkaSource) and topic in n.source.topics]
    if len(of_topic) != 1:
        raise ConfigError(f"--topic {topic}: not the topic of one configured stream; add {names}")
    return of_topic
