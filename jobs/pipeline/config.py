"""A pipeline's configuration: one TOML file, with `a.b=value` over it.

`load` gives a checked `Pipeline`, or raises `ConfigError` with one line that names the key, the
file, and what was expected.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from configuration import declaration, event_mapping, paths
from configuration.declaration import Declaration, EmissionSection
from configuration.declaration import Policy as Policy
from configuration.event_mapping import EventsSection
from configuration.reading import ConfigError as ConfigError
from configuration.reading import Duration, Section, Wrong, key_of, read, wrong_in
from jobs.pipeline import object_storage, references, secrets, source_checks, source_names
from jobs.pipeline.source_checks import check_range as check_range
from jobs.pipeline.source_sections import ArchiveSource as ArchiveSource
from jobs.pipeline.source_sections import FilesSource as FilesSource
from jobs.pipeline.source_sections import KafkaSource as KafkaSource
from jobs.pipeline.source_sections import NamedSource as NamedSource
from jobs.pipeline.source_sections import Source as Source
from jobs.pipeline.source_sections import SourcesSection as SourcesSection
from jobs.pipeline.source_sections import hour_ms as hour_ms
from schemas.events import LATEST_TIME, STREAMS
from schemas.mapping.plan import Mappings
from udfs.core.matching import JoinRules
from udfs.core.sampling import Sampling, SamplingRule

_USUAL_INTERVAL_MS = 60_000
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Time = Annotated[int, msgspec.Meta(ge=0, lt=LATEST_TIME)]


class PipelineSection(Section, frozen=True, kw_only=True):
    """`[pipeline]`: the name is that of the Flink job."""

    name: str = "sample-stitch"


class JoinSection(declaration.JoinedBy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[join]`, see docs/join-semantics.md; `late_horizon` is 2 W when absent."""

    key: Literal["request_id", "user_id"] = "request_id"
    clock_skew: Duration = Duration(0)
    allowed_lateness: Duration = Duration(0)
    late_horizon: Duration | None = None
    unknown_actions: Literal["reject", "ignore"] = "reject"


class LimitsSection(Section, frozen=True, kw_only=True):
    """`[limits]`: what bounds the memory of a join key; what exceeds it is rejected.

    `actions_per_request` is for `join.key = "request_id"`, `actions_per_user` for `"user_id"`: how
    many actions a key may have that are held, or remembered as used (docs/join-semantics.md 16).
    """

    items_per_request: _Positive = 10_000
    actions_per_request: _Positive = 100_000
    actions_per_user: _Positive = 100_000


class LabelSilenceSection(Section, frozen=True, kw_only=True):
    """`[label_silence]`: hold when no action came for `after`, for `max_hold` (without end)."""

    after: Duration
    max_hold: Duration | None = None


class EndOfInputSection(Section, frozen=True, kw_only=True):
    """`[end_of_input]`; `complete_until` is epoch ms."""

    immature: Literal["mark", "drop"] = "mark"
    complete_until: _Time | None = None


Compression = Literal["ZSTD", "SNAPPY", "GZIP", "UNCOMPRESSED"]
#: Whether the files of `samples/` are a table that others can read, too (docs/iceberg.md).
TableFormat = Literal["files", "iceberg"]
#: The file systems that Iceberg's library reaches with the jars that a job has.
_OF_ICEBERG = ("file", "hdfs")


class OutputSection(declaration.WrittenTo, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[output]`: where the Parquet goes.

    `compact`: merge the files of a checkpoint into one; unset, only where there are checkpoints
    (unbounded runs), for it means writing everything twice. `late_features`: late actions carry
    the features of their sample, so that one that was sampled out can be made again. `table`:
    "iceberg" keeps an Iceberg table over the files of samples.
    """

    table: TableFormat = "files"
    compression: Compression = "ZSTD"
    compact: bool | None = None
    target_file_size: str = "128MB"
    late_features: bool = False


class ArchiveSection(Section, frozen=True, kw_only=True):
    """`[archive]`: where `jobs.archive_events` keeps the topics, see docs/archive.md.

    `complete_after`: how far the watermark is behind the end of an hour when the hour is called
    complete. `group_id`: under which the offsets are committed; the source's with `-archive` when
    absent, for the join's offsets are its own. The other keys are as in `OutputSection`.
    """

    path: str
    compression: Compression = "ZSTD"
    compact: bool | None = None
    target_file_size: str = "128MB"
    complete_after: Duration = Duration(300_000)
    group_id: str | None = None


LogFormat = Literal["text", "json"]


class RuntimeSection(Section, frozen=True, kw_only=True):
    """`[runtime]`: how it runs.

    `batch_delay`: for how long a record waits at most for others, to go through Python with them.
    `separate_sink`: samples are written by a thread of their own, not by the one that joins.
    `file_readers`: so many subtasks read and decode files.
    `checkpoint_interval`: a minute for unbounded runs when absent; bounded runs have checkpoints
    only where it is set. `checkpoint_path`: `_checkpoints` in the output when absent.
    `max_late_requests` (share of the requests that were read) and `max_rejected` (share of the
    records of a stream that could not be used): a bounded run with more ends with exit code 3.
    `metrics_port` (for Prometheus) and `log_format` are of local runs; a cluster has its own.
    """

    parallelism: _Positive | None = None
    state_backend: Literal["hashmap", "rocksdb"] = "hashmap"
    batch_delay: Duration = Duration(50)
    separate_sink: bool = False
    file_readers: _Positive = 1
    checkpoint_interval: Duration | None = None
    checkpoint_path: str | None = None
    max_late_requests: _Share = 0.1
    max_rejected: _Share = 0.9
    metrics_port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] | None = None
    log_format: LogFormat = "text"


class Pipeline(Declaration, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checked configuration: what readers of the samples see, and all that is the job's own.

    Paths in it are absolute or have a scheme.
    """

    pipeline: PipelineSection = PipelineSection()
    join: JoinSection = JoinSection()
    limits: LimitsSection = LimitsSection()
    label_silence: LabelSilenceSection | None = None
    end_of_input: EndOfInputSection = EndOfInputSection()
    events: EventsSection = EventsSection()
    sources: SourcesSection
    output: OutputSection
    archive: ArchiveSection | None = None
    runtime: RuntimeSection = RuntimeSection()
    #: Flink's own options, passed through.
    flink: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def bounded(self) -> bool:
        """Whether the input ends by itself."""
        of_all = (named.source for named in self.sources.each)
        return all(not isinstance(s, KafkaSource) or s.end != "never" for s in of_all)

    @classmethod
    def shaped(cls, document: dict[str, Any], wrong: Wrong) -> dict[str, Any]:
        """The document as the types have it, see `jobs.pipeline.source_names`."""
        return source_names.shaped(document, wrong)

    def seen_from(self, one: NamedSource) -> Pipeline:
        """The pipeline with one source a stream, and its mapping: this one, and the first of the
        other stream. What looks at one source at a time needs no more.
        """
        if not self.sources.are_named:
            return self
        return msgspec.structs.replace(
            self,
            sources=self.sources.seen_from(one),
            events=self.events.seen_from(one.stream, one.name),
        )

    @property
    def checkpoint_interval(self) -> int | None:
        """Milliseconds; None: no checkpoints, see `RuntimeSection`."""
        interval = self.runtime.checkpoint_interval
        if interval is None:
            return None if self.bounded else _USUAL_INTERVAL_MS
        return int(interval)

    @property
    def checkpoints(self) -> str:
        """The folder of checkpoints, and of the savepoints with which a local job is stopped."""
        return self.runtime.checkpoint_path or self.default_checkpoints

    @property
    def default_checkpoints(self) -> str:
        """Where checkpoints go when the file does not say it."""
        return f"{self.output.path.rstrip('/')}/_checkpoints"

    @property
    def compact(self) -> bool:
        """Whether files are merged, see `OutputSection`."""
        return not self.bounded if self.output.compact is None else self.output.compact

    @property
    def negative_sampling(self) -> Sampling:
        """`[sampling]`, as the join applies it."""
        declared = self.sampling
        rules = (SamplingRule(r.rate, r.feature, r.equals, r.negative) for r in declared.rules)
        return Sampling(declared.seed, declared.rate, tuple(rules))

    @property
    def mappings(self) -> Mappings:
        """`[events]`, as the decoders apply it. Raises ConfigError, unless `load` gave this."""
        return mappings_of(self, lambda key, text: ConfigError(f"{key}: {text}"))

    @property
    def max_actions(self) -> int:
        """How many actions a join key may have (rule 16)."""
        limits = self.limits
        by_user = self.join.key == "user_id"
        return limits.actions_per_user if by_user else limits.actions_per_request

    @property
    def rules(self) -> JoinRules:
        """What the join decides by. Durations are in ms."""
        horizon, emission = self.join.late_horizon, self.resolved_emission
        first = emission.first_emit_after
        return JoinRules(
            key=self.join.key,
            kinds=self.kinds,
            skew=int(self.join.clock_skew),
            lateness=int(self.join.allowed_lateness),
            horizon=None if horizon is None else int(horizon),
            first_emit_after=None if first is None else int(first),
            on_arrival=emission.emit_positives == "on_arrival",
            final_emit=emission.final_emit or "always",
            exposure=None if self.exposure is None else self.exposure.action,
            drop_unexposed=self.exposure is None or self.exposure.unexposed == "drop",
            drop_immature=self.end_of_input.immature == "drop",
            keep_features=self.output.late_features,
            max_actions=self.max_actions,
        )


def load(
    path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] = os.environ
) -> Pipeline:
    """The pipeline of a TOML file, with overrides such as `join.clock_skew=2s` over it.

    Raises ConfigError.
    """
    pipeline = read(path, Pipeline, overrides)
    return _resolved(pipeline, path, environment, wrong_in(path, overrides))


def document(
    path: Path,
    overrides: Sequence[str] = (),
    beside: Literal["output", "archive"] = "output",
) -> dict[str, object]:
    """The configuration with its overrides as a TOML document without secrets.

    It is to lie beside the output, or the archive, and `load` gives the same pipeline for it: paths
    are absolute, and output.path (archive.path) is the folder of the file. References to the
    environment stay references. A secret that is written out in the file or in an override is
    replaced by one (`sasl.jaas.config`: `${SASL_JAAS_CONFIG}`). Raises ConfigError.
    """
    pipeline = read(path, Pipeline, overrides)
    plain = _plain(pipeline)
    assert isinstance(plain, dict)
    for name in ("output", "archive"):
        if name in plain:
            place = paths.beside(path, plain[name]["path"])
            plain[name]["path"] = "." if name == beside and "://" not in place else place
    if pipeline.runtime.checkpoint_path is not None:
        plain["runtime"]["checkpoint_path"] = paths.beside(path, pipeline.runtime.checkpoint_path)
    source_names.unshaped(plain)
    for stream in STREAMS:
        table = plain["sources"][stream]
        for source in [table] if "type" in table else table.values():
            source_checks.document(source, path)
    plain["flink"] = references.without_secrets(plain["flink"], path)
    return {name: section for name, section in plain.items() if section}


def _plain(value: object) -> Any:
    """Of structs, what TOML has: tables, arrays, text and numbers. None is left out."""
    if isinstance(value, Duration):
        return f"{int(value)}ms"
    if isinstance(value, msgspec.Struct):
        fields = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
        config = value.__struct_config__
        tag = {} if config.tag_field is None else {config.tag_field: config.tag}
        return tag | _plain({name: getattr(value, field) for name, field in fields})
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def mappings_of(pipeline: Pipeline, wrong: Wrong) -> Mappings:
    """What `[events]` says. Raises ConfigError."""
    return event_mapping.check(
        pipeline.events,
        pipeline.schema,
        {kind.name: kind.label for kind in pipeline.kinds},
        by_request=pipeline.join.key == "request_id",
        has_record_time=not isinstance(pipeline.sources.features, FilesSource),
        wrong=wrong,
    )


def _check_mappings(pipeline: Pipeline, wrong: Wrong) -> None:
    """Raises ConfigError for a mapping that cannot be, of any source."""
    for named in pipeline.sources.each:
        wrong_there = source_names.wrong_of(pipeline.events, named.stream, named.name, wrong)
        mappings_of(pipeline.seen_from(named), wrong_there)
    if pipeline.join.key == "request_id" and len(pipeline.sources.of("features")) > 1:
        source_names.check_alike(pipeline.events, pipeline.sources, wrong)


def _check_emission(pipeline: Pipeline, longest: int, wrong: Wrong) -> None:
    emission = pipeline.resolved_emission
    first = emission.first_emit_after
    if first is None and pipeline.join.policy in ("es_dfm", "defer"):
        raise wrong(
            "emission.first_emit_after", f"the policy {pipeline.join.policy!r} needs this key"
        )
    if first is not None and first >= longest:
        raise wrong(
            "emission.first_emit_after", f"must be shorter than the longest window ({longest} ms)"
        )
    if first is not None and emission == EmissionSection(
        first_emit_after=first, emit_positives="at_settle", final_emit="never"
    ):
        raise wrong(
            "emission.final_emit", '"never" with emit_positives "at_settle" would lose positives'
        )


def _check_exposure_and_sampling(pipeline: Pipeline, wrong: Wrong) -> None:
    exposure = pipeline.exposure
    if exposure is not None and exposure.action not in pipeline.actions:
        raise wrong("exposure.action", f"there is no [{key_of('actions', exposure.action)}]")
    for i, rule in enumerate(pipeline.sampling.rules):
        key = f"sampling.rules[{i}]"
        if (rule.feature is None) != (rule.equals is None):
            raise wrong(key, "feature and equals go together")
        if rule.feature is None and rule.negative is None:
            raise wrong(key, "says neither a feature nor a kind of negative")
        if rule.feature is not None and rule.feature not in pipeline.features:
            raise wrong(f"{key}.feature", f"there is no [{key_of('features', rule.feature)}]")
        if rule.negative == "unexposed" and exposure is None:
            raise wrong(f"{key}.negative", "without [exposure] nothing is unexposed")


def _resolved(
    pipeline: Pipeline, path: Path, environment: Mapping[str, str], wrong: Wrong
) -> Pipeline:
    """The pipeline with absolute paths, and references to the environment replaced.

    Raises ConfigError for what the types of the keys cannot say.
    """
    declaration.check(pipeline, wrong)
    longest = max(action.window for action in pipeline.actions.values())
    horizon = pipeline.join.late_horizon
    if horizon is not None and horizon < longest:
        raise wrong("join.late_horizon", f"must be at least the longest window ({longest} ms)")
    if pipeline.runtime.checkpoint_interval == 0:
        raise wrong("runtime.checkpoint_interval", "must be longer than 0")
    _check_emission(pipeline, longest, wrong)
    _check_exposure_and_sampling(pipeline, wrong)

    def of_flink(key: str, text: str) -> str:
        return source_checks.path_for_flink(key, text, path, wrong)

    sources = source_checks.resolved(pipeline.sources, path, environment, wrong)
    if pipeline.runtime.file_readers > 1 and not isinstance(sources.each[0].source, FilesSource):
        raise wrong("runtime.file_readers", 'is for sources of type "files"')
    _check_mappings(pipeline, wrong)
    output = msgspec.structs.replace(
        pipeline.output, path=of_flink("output.path", pipeline.output.path)
    )
    scheme, separator, _ = output.path.partition("://")
    if output.table == "iceberg" and separator and scheme not in _OF_ICEBERG:
        raise wrong(
            "output.table",
            f'"iceberg" needs an output.path that is a folder, or a URI of {_OF_ICEBERG[-1]};'
            f" this is one of {scheme}",
        )
    archive = pipeline.archive
    if archive is not None:
        archive = msgspec.structs.replace(archive, path=of_flink("archive.path", archive.path))
        if archive.path.rstrip("/") == output.path.rstrip("/"):
            raise wrong("archive.path", "must not be output.path")
    runtime = pipeline.runtime
    if runtime.checkpoint_path is not None:
        checkpoints = of_flink("runtime.checkpoint_path", runtime.checkpoint_path)
        runtime = msgspec.structs.replace(runtime, checkpoint_path=checkpoints)
    object_storage.check(pipeline.flink, wrong)
    flink = references.resolved_in("flink", pipeline.flink, path, environment, wrong)
    return msgspec.structs.replace(
        pipeline,
        sources=sources,
        output=output,
        archive=archive,
        runtime=runtime,
        flink=flink,
    )


def secrets_of(pipeline: Pipeline) -> set[str]:
    """Every text of a pipeline that must not be shown, see `jobs.pipeline.secrets.Redaction`."""
    found = secrets.of_properties(pipeline.flink)
    for source in (named.source for named in pipeline.sources.each):
        if isinstance(source, KafkaSource):
            found |= secrets.of_properties(source.properties)
        if source.format is not None and source.format.registry is not None:
            found |= secrets.of_properties(source.format.registry.properties)
    return found
