"""Which features do my records have? Proposes `[features]` from a sample of records, or from the
schema of a topic.

    python -m tools.infer_schema --config FILE [--sample FILE | --from-schema]

The configuration needs no `[features]` yet; with `[events.features]` the records are looked at
through it. Exit codes: 0 proposed, 1 no record could be used, 2 the configuration is wrong, or
something cannot be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from configuration.command_line import Overrides, PipelineFile, run
from jobs.pipeline import record_format
from jobs.pipeline.config import ConfigError, KafkaSource, NamedSource, Pipeline, Source, load
from schemas import event_files, json_record
from schemas.decoding import BadRecord, Bounds
from schemas.features import Scope
from schemas.formats.declared import FormatError, RegistryError
from schemas.mapping.decoding import Skipped, texts_of
from schemas.samples import reserved_columns
from tools.infer_schema import proposal
from tools.infer_schema.seen import PLAIN, Place, Seen, places, where
from tools.try_mapping.reading import json_of, of_json, read

PROPOSED, NOTHING, WRONG = 0, 1, 2


def infer_schema(
    config: PipelineFile,
    overrides: Overrides = None,
    sample: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read this file (.jsonl, .gz), not the source."),
    ] = None,
    most: Annotated[
        int, typer.Option("--records", metavar="N", min=1, help="How many records to look at.")
    ] = 1_000,
    from_schema: Annotated[
        bool,
        typer.Option(
            "--from-schema",
            help="Look at the Avro or Protobuf schema of the source, not at records.",
        ),
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--stream",
            metavar="NAME",
            help="Which source to look at, where there are several: features.NAME.",
        ),
    ] = None,
) -> int:
    """Propose the features of a pipeline from a sample of its records.

    Prints [features] as TOML, with the types that were seen and the share of missing values, to be
    edited (docs/mapping.md). With --from-schema, what the schema of the source allows. Exit codes:
    0 proposed, 1 no record could be used, 2 the configuration is wrong or something cannot be read.
    """
    errors = Console(stderr=True, highlight=False)
    try:
        pipeline = load(config, overrides or ())
        pipeline = pipeline if sample is None else of_json(pipeline)
        named = _asked(pipeline, source)
        all_sources, pipeline = pipeline, pipeline.seen_from(named)
        if from_schema:
            seen, unused = _of_schema(pipeline, named), Counter[str]()
        else:
            seen, unused = _look(pipeline, named, sample, most)
    except (ConfigError, FormatError, RegistryError, event_files.EventFileError) as error:
        errors.print(f"infer-schema: {error}", markup=False, soft_wrap=True)
        return WRONG
    for what, count in unused.most_common():
        errors.print(f"infer-schema: {count:,} records {what}", markup=False, soft_wrap=True)
    if not seen.records:
        errors.print("infer-schema: no record could be used", markup=False)
        return NOTHING
    labels: frozenset[tuple[Scope, Place]] = frozenset()
    for one in all_sources.sources.of("actions"):
        actions = all_sources.seen_from(one).mappings.actions
        if actions is not None and _place(named.source) == _place(one.source):
            labels |= places(actions)
    if seen.where.items is None:
        labels |= {("item", place) for _, place in labels}
    reserved = frozenset(reserved_columns(pipeline.kinds))
    mapped = pipeline.mappings.features is not None
    print(proposal.toml(seen, reserved, labels, mapped=mapped, counted=not from_schema), end="")
    return PROPOSED


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these arguments; returns the exit code."""
    return run(infer_schema, argv, "python -m tools.infer_schema")


def _place(source: Source) -> object:
    """Equal for sources of the same records."""
    if isinstance(source, KafkaSource):
        return source.topics, source.topic_pattern
    return source.path


def _asked(pipeline: Pipeline, key: str | None) -> NamedSource:
    """The source of features that is asked for. Raises ConfigError."""
    named = pipeline.sources.called(key or "features", "--stream")
    if named.stream != "features":
        raise ConfigError(f"--stream {key}: features are those of a source of features")
    return named


def _of_schema(pipeline: Pipeline, named: NamedSource) -> Seen:
    """What the schema of the feature events has. Raises ConfigError, FormatError, RegistryError."""
    source, mapping = pipeline.sources.features, pipeline.mappings.features
    if source.format is None:
        raise ConfigError(
            f"sources.{named.key}.format: there is none, so there is no schema to look at; leave"
            " --from-schema out to look at records"
        )
    # few pipelines need it, and it takes a while to import
    from tools.infer_schema.examples import examples

    seen = Seen(PLAIN if mapping is None else where(mapping))
    for record in examples(record_format.of(source.format)):
        seen.add(record)
    return seen


def _look(
    pipeline: Pipeline, named: NamedSource, sample: Path | None, most: int
) -> tuple[Seen, Counter[str]]:
    """What the records have; and how many could not be used, by why."""
    mapping = pipeline.mappings.features
    texts = texts_of(pipeline.mappings, "features")
    seen, unused = Seen(PLAIN if mapping is None else where(mapping)), Counter[str]()
    bounds = Bounds(pipeline.sources.features.max_record_bytes)
    as_json = json_of(pipeline, "features")
    for record in islice(read(pipeline, named, sample, None, []), most):
        try:
            raw = as_json(record.raw)
            bounds.check_bytes(raw)
            if texts is not None and isinstance(texts.of(raw, record.time), Skipped):
                unused["are skipped"] += 1
                continue
            seen.add(json_record.read(raw))
        except BadRecord as bad:
            unused[f"are bad ({bad.reason})"] += 1
    return seen, unused
