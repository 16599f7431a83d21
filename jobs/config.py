"""A pipeline's configuration: one TOML file, with `a.b=value` over it.

`load` gives a checked `Pipeline`, or raises `ConfigError` with one line that names the key, the
file, and what was expected.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, get_args, get_type_hints

import msgspec

from schemas.actions import ActionKind, Label
from schemas.events import LATEST_TIME
from schemas.features import Feature, FeatureSchema, FeatureType, Role, Scope
from schemas.samples import reserved_columns
from udfs.matching import FinalEmit, JoinRules
from udfs.sampling import NegativeKind, Sampling, SamplingRule

_UNITS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d+)\s*(ms|s|min|h|d)")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _Wrong(Protocol):
    def __call__(self, key: str, text: str) -> ConfigError: ...


class ConfigError(Exception):
    """One line for a person: what is wrong, where, and what was expected."""


class Duration(int):
    """Milliseconds; written "250ms", "10s", "5min", "2h" or "1d" in a configuration."""

    @classmethod
    def parse(cls, text: object) -> Duration:
        match = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f'expected a duration like "250ms", "10s", "5min", "2h"; got {text!r}')
        return cls(int(match[1]) * _UNITS[match[2]])


_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Rate = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Time = Annotated[int, msgspec.Meta(ge=0, lt=LATEST_TIME)]


class _Section(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    pass


Policy = Literal["wait", "fake_negative", "es_dfm", "defer"]


class PipelineSection(_Section, frozen=True, kw_only=True):
    """`[pipeline]`: the name is that of the Flink job."""

    name: str = "sample-stitch"


class JoinSection(_Section, frozen=True, kw_only=True):
    """`[join]`, see docs/join-semantics.md; `late_horizon` is 2 W when absent."""

    key: Literal["request_id", "user_id"] = "request_id"
    policy: Policy = "wait"
    clock_skew: Duration = Duration(0)
    allowed_lateness: Duration = Duration(0)
    late_horizon: Duration | None = None
    unknown_actions: Literal["reject", "ignore"] = "reject"


class EmissionSection(_Section, frozen=True, kw_only=True):
    """`[emission]`: over what the policy sets, see docs/emission-policies.md."""

    first_emit_after: Duration | None = None
    emit_positives: Literal["at_settle", "on_arrival"] | None = None
    final_emit: FinalEmit | None = None


class ExposureSection(_Section, frozen=True, kw_only=True):
    """`[exposure]`: `action` is the kind that says an item was on screen."""

    action: str
    unexposed: Literal["drop", "mark"] = "drop"


class SamplingRuleSection(_Section, frozen=True, kw_only=True):
    """One of `[[sampling.rules]]`."""

    rate: _Rate
    feature: str | None = None
    equals: bool | int | float | str | None = None
    negative: NegativeKind | None = None


class SamplingSection(_Section, frozen=True, kw_only=True):
    """`[sampling]`: the rate at which negatives are written."""

    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**62)] = 0
    rate: _Rate = 1.0
    rules: list[SamplingRuleSection] = []

    @property
    def settings(self) -> Sampling:
        rules = (SamplingRule(r.rate, r.feature, r.equals, r.negative) for r in self.rules)
        return Sampling(self.seed, self.rate, tuple(rules))


class LabelSilenceSection(_Section, frozen=True, kw_only=True):
    """`[label_silence]`: hold when no action came for `after`, for `max_hold` (without end)."""

    after: Duration
    max_hold: Duration | None = None


class EndOfInputSection(_Section, frozen=True, kw_only=True):
    """`[end_of_input]`; `complete_until` is epoch ms."""

    immature: Literal["mark", "drop"] = "mark"
    complete_until: _Time | None = None


class ActionSection(_Section, frozen=True, kw_only=True):
    """`[actions.<kind>]`."""

    window: Duration
    label: Label = "any"


class FeatureSection(_Section, frozen=True, kw_only=True):
    """`[features.<name>]`."""

    type: str
    scope: Scope = "item"
    required: bool = True
    role: Role = "feature"


class FilesSource(_Section, frozen=True, kw_only=True, tag="files", tag_field="type"):
    """`[sources.*] type = "files"`: a folder or glob of `.jsonl` files, relative to the TOML file.

    `not_after` (epoch ms): later events are rejected as coming from a broken clock.
    """

    path: str
    out_of_orderness: Duration = Duration(60_000)
    not_after: _Time | None = None
    max_record_bytes: _Positive = 4 << 20


class KafkaSource(_Section, frozen=True, kw_only=True, tag="kafka", tag_field="type"):
    """`[sources.*] type = "kafka"`.

    `start`: "earliest", "latest", "committed" or epoch ms. `end`: "never" (service), "latest" (as
    of the submission) or epoch ms (backfills). `properties` go to the Kafka client as they are,
    with `${NAME}` replaced from the environment, which is where secrets belong.
    """

    topic: str
    bootstrap_servers: str
    group_id: str | None = None
    start: Literal["earliest", "latest", "committed"] | _Time = "earliest"
    end: Literal["never", "latest"] | _Time = "never"
    out_of_orderness: Duration = Duration(10_000)
    idle_timeout: Duration = Duration(60_000)
    max_drift: Duration | None = None
    max_future: Duration = Duration(600_000)
    max_record_bytes: _Positive = 4 << 20
    properties: dict[str, str] = {}


Source = FilesSource | KafkaSource


class SourcesSection(_Section, frozen=True, kw_only=True):
    """`[sources.features]` and `[sources.actions]`."""

    features: Source
    actions: Source


class OutputSection(_Section, frozen=True, kw_only=True):
    """`[output]`: where the Parquet goes.

    `compact`: merge the files of a checkpoint into one; unset, only where there are checkpoints
    (unbounded runs), for it means writing everything twice. `late_features`: late actions carry
    the features of their sample, so that one that was sampled out can be made again.
    """

    path: str
    compression: Literal["ZSTD", "SNAPPY", "GZIP", "UNCOMPRESSED"] = "ZSTD"
    compact: bool | None = None
    target_file_size: str = "128MB"
    late_features: bool = False


class RuntimeSection(_Section, frozen=True, kw_only=True):
    """`[runtime]`: how it runs. `python` "thread" is ten times as fast as "process"."""

    parallelism: _Positive | None = None
    python: Literal["thread", "process"] = "thread"
    state_backend: Literal["hashmap", "rocksdb"] = "hashmap"
    checkpoint_interval: Duration = Duration(60_000)
    checkpoint_path: str | None = None


class Pipeline(_Section, frozen=True, kw_only=True):
    """A checked configuration. Paths in it are absolute or have a scheme."""

    pipeline: PipelineSection = PipelineSection()
    join: JoinSection = JoinSection()
    emission: EmissionSection = EmissionSection()
    exposure: ExposureSection | None = None
    sampling: SamplingSection = SamplingSection()
    label_silence: LabelSilenceSection | None = None
    end_of_input: EndOfInputSection = EndOfInputSection()
    actions: dict[str, ActionSection]
    features: dict[str, FeatureSection] = {}
    sources: SourcesSection
    output: OutputSection
    runtime: RuntimeSection = RuntimeSection()
    #: Flink's own options, passed through.
    flink: dict[str, str] = {}

    @property
    def bounded(self) -> bool:
        """Whether the input ends by itself."""
        both = (self.sources.features, self.sources.actions)
        return all(isinstance(s, FilesSource) or s.end != "never" for s in both)

    @property
    def compact(self) -> bool:
        """Whether files are merged, see `OutputSection`."""
        return not self.bounded if self.output.compact is None else self.output.compact

    @property
    def kinds(self) -> tuple[ActionKind, ...]:
        return tuple(ActionKind(k, int(a.window), a.label) for k, a in self.actions.items())

    @property
    def schema(self) -> FeatureSchema:
        return FeatureSchema.of(
            Feature(name, FeatureType.parse(f.type), f.scope, f.required, f.role)
            for name, f in self.features.items()
        )

    @property
    def resolved_emission(self) -> EmissionSection:
        """The policy's settings, with what `[emission]` says over them."""
        preset, own = PRESETS[self.join.policy], self.emission
        return EmissionSection(
            first_emit_after=own.first_emit_after
            if own.first_emit_after is not None
            else preset.first_emit_after,
            emit_positives=own.emit_positives or preset.emit_positives,
            final_emit=own.final_emit or preset.final_emit,
        )

    @property
    def rules(self) -> JoinRules:
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
        )


#: What the policies set; es_dfm and defer leave it to the configuration when the first row comes.
PRESETS: Mapping[Policy, EmissionSection] = {
    "wait": EmissionSection(emit_positives="at_settle", final_emit="always"),
    "fake_negative": EmissionSection(
        first_emit_after=Duration(0), emit_positives="on_arrival", final_emit="never"
    ),
    "es_dfm": EmissionSection(emit_positives="on_arrival", final_emit="never"),
    "defer": EmissionSection(emit_positives="on_arrival", final_emit="always"),
}


def load(
    path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] = os.environ
) -> Pipeline:
    """The pipeline of a TOML file, with overrides such as `join.clock_skew=2s` over it.

    Raises ConfigError.
    """
    try:
        document = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    origins: dict[str, str] = {}
    for override in overrides:
        _override(document, override, origins)
    try:
        pipeline = msgspec.convert(document, Pipeline, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(_readable(str(error), path, origins)) from None
    return _resolved(pipeline, path, environment)


def _override(document: dict[str, Any], override: str, origins: dict[str, str]) -> None:
    """The value is read as TOML if it is that, else as a string: `a.b=10s` needs no quotes."""
    key, equals, text = override.partition("=")
    parts = _parts(key.strip())
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: expected a.b=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = document
    for part in parts[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {part!r} is a value, not a table")
        table = inner
    table[parts[-1]] = value
    origins[key.strip()] = f"--set {override}"


def _parts(key: str) -> list[str]:
    """Flink's options and Kafka's properties have dots in their own names."""
    match = re.fullmatch(r"(flink|sources\.\w+\.properties)\.(.+)", key)
    return [*match[1].split("."), match[2]] if match else key.split(".")


def _decode(expected: type, value: object) -> object:
    if expected is Duration:
        return Duration.parse(value)
    raise NotImplementedError(expected)


def _readable(message: str, path: Path, origins: Mapping[str, str]) -> str:
    """`Expected X - at `$.a.b`` becomes `FILE: a.b: expected X`."""
    text, _, place = message.partition(" - at `$")
    key = place.rstrip("`").lstrip(".").replace("[...]", ".<name>")
    unknown = re.search(r"unknown field `(.+)`", text)
    if unknown:
        name = f"{key}.{unknown[1]}".lstrip(".")
        return f"{origins.get(name, path)}: {name}: there is no such key{_instead(key, unknown[1])}"
    missing = re.search(r"missing required field `(.+)`", text)
    if missing:
        return f"{path}: {f'{key}.{missing[1]}'.lstrip('.')}: this key is required"
    choices = _choices(key) if "enum value" in text else ()
    expected = f"; expected one of {', '.join(choices)}" if choices else ""
    return f"{origins.get(key, path)}: {key}: {text[:1].lower()}{text[1:]}{expected}"


def _choices(key: str) -> Sequence[str]:
    """The values that the key may have, for one with a choice of words."""
    section, _, name = key.rpartition(".")
    for struct in _SECTIONS.get(section, ()):
        hint = get_type_hints(struct).get(name)
        words = [a for a in get_args(hint) if isinstance(a, str)]
        for inner in get_args(hint):
            words += [a for a in get_args(inner) if isinstance(a, str)]
        if words:
            return words
    return ()


_SECTIONS: Mapping[str, tuple[type[msgspec.Struct], ...]] = {
    "": (Pipeline,),
    "pipeline": (PipelineSection,),
    "join": (JoinSection,),
    "emission": (EmissionSection,),
    "exposure": (ExposureSection,),
    "sampling": (SamplingSection,),
    "sampling.rules": (SamplingRuleSection,),
    "label_silence": (LabelSilenceSection,),
    "end_of_input": (EndOfInputSection,),
    "actions.<name>": (ActionSection,),
    "features.<name>": (FeatureSection,),
    "sources": (SourcesSection,),
    "sources.features": (FilesSource, KafkaSource),
    "sources.actions": (FilesSource, KafkaSource),
    "output": (OutputSection,),
    "runtime": (RuntimeSection,),
}


def _instead(section: str, unknown: str) -> str:
    structs = _SECTIONS.get(section, ())
    names = dict.fromkeys(name for s in structs for name in s.__struct_fields__)
    return f" (there are: {', '.join(names)})" if names else f" ({unknown})"


def _check_emission(pipeline: Pipeline, longest: int, wrong: _Wrong) -> None:
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


def _check_exposure_and_sampling(pipeline: Pipeline, wrong: _Wrong) -> None:
    exposure = pipeline.exposure
    if exposure is not None and exposure.action not in pipeline.actions:
        raise wrong("exposure.action", f"there is no [actions.{exposure.action}]")
    for i, rule in enumerate(pipeline.sampling.rules):
        key = f"sampling.rules[{i}]"
        if (rule.feature is None) != (rule.equals is None):
            raise wrong(key, "feature and equals go together")
        if rule.feature is None and rule.negative is None:
            raise wrong(key, "says neither a feature nor a kind of negative")
        if rule.feature is not None and rule.feature not in pipeline.features:
            raise wrong(f"{key}.feature", f"there is no [features.{rule.feature}]")
        if rule.negative == "unexposed" and exposure is None:
            raise wrong(f"{key}.negative", "without [exposure] nothing is unexposed")


def _resolved(pipeline: Pipeline, path: Path, environment: Mapping[str, str]) -> Pipeline:
    """What types cannot say, and paths made absolute, references replaced."""

    def wrong(key: str, text: str) -> ConfigError:
        return ConfigError(f"{path}: {key}: {text}")

    if not pipeline.actions:
        raise wrong("actions", "at least one [actions.<kind>] is needed")
    for kind, action in pipeline.actions.items():
        if not _NAME.fullmatch(kind):
            raise wrong(f"actions.{kind}", "a kind becomes a column: letters, digits and _ only")
        if action.window <= 0:
            raise wrong(f"actions.{kind}.window", "must be longer than 0")
    longest = max(action.window for action in pipeline.actions.values())
    horizon = pipeline.join.late_horizon
    if horizon is not None and horizon < longest:
        raise wrong("join.late_horizon", f"must be at least the longest window ({longest} ms)")
    _check_emission(pipeline, longest, wrong)
    _check_exposure_and_sampling(pipeline, wrong)
    taken = {column.lower(): column for column in reserved_columns(pipeline.kinds)}
    for name, feature in pipeline.features.items():
        try:
            FeatureType.parse(feature.type)
        except ValueError as error:
            raise wrong(f"features.{name}.type", str(error)) from None
        if not name or name.startswith("__") or "`" in name:
            raise wrong(f"features.{name}", "a feature becomes a column: no ` and not __…")
        if name.lower() in taken:
            raise wrong(
                f"features.{name}", f"the samples have a column {taken[name.lower()]!r} already"
            )
        taken[name.lower()] = name

    def place(text: str) -> str:
        # a scheme (s3://, file://) is for Flink's file systems; what else is local
        return text if "://" in text else str((path.parent / Path(text).expanduser()).resolve())

    def source(key: str, source: Source) -> Source:
        if isinstance(source, FilesSource):
            if "://" in source.path:
                raise wrong(f"{key}.path", "files are read from a local or mounted folder")
            return msgspec.structs.replace(source, path=place(source.path))

        def value(name: str, text: str) -> str:
            def lookup(match: re.Match[str]) -> str:
                if match[1] not in environment:
                    raise wrong(f"{key}.properties.{name}", f"${match[1]} is not set")
                return environment[match[1]]

            return _REFERENCE.sub(lookup, text)

        return msgspec.structs.replace(
            source, properties={n: value(n, t) for n, t in source.properties.items()}
        )

    sources = SourcesSection(
        features=source("sources.features", pipeline.sources.features),
        actions=source("sources.actions", pipeline.sources.actions),
    )
    if isinstance(sources.features, FilesSource) != isinstance(sources.actions, FilesSource):
        raise wrong("sources", "both streams come from files, or both from Kafka")
    output = msgspec.structs.replace(pipeline.output, path=place(pipeline.output.path))
    checkpoints = pipeline.runtime.checkpoint_path
    runtime = msgspec.structs.replace(
        pipeline.runtime, checkpoint_path=None if checkpoints is None else place(checkpoints)
    )
    return msgspec.structs.replace(pipeline, sources=sources, output=output, runtime=runtime)
