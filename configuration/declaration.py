"""What a pipeline's file declares about its samples: features, actions, and which rows there are.

The job that writes the samples (`jobs.pipeline.config.Pipeline`) and everything that reads them
share `Declaration`. Which names can be columns is decided here (docs/configuration.md, "Names").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from configuration.paths import beside
from configuration.reading import Duration, Section, Wrong, key_of, read, wrong_in
from configuration.store_requests import ObjectStorageSection
from schemas import sql
from schemas.actions import ActionKind, Label
from schemas.features import Feature, FeatureSchema, FeatureType, Role, Scope
from schemas.samples import FinalEmit, NegativeKind, reserved_columns

Policy = Literal["wait", "fake_negative", "es_dfm", "defer"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Of the columns that are made of it, `delay_<kind>_ms` is the longest.
_KIND_MAX_LENGTH = sql.IDENTIFIER_MAX_LENGTH - len("delay__ms")
_Rate = Annotated[float, msgspec.Meta(ge=0, le=1)]


class ActionSection(Section, frozen=True, kw_only=True):
    """`[actions.<kind>]`."""

    window: Duration
    label: Label = "any"


class FeatureSection(Section, frozen=True, kw_only=True):
    """`[features.<name>]`."""

    type: str
    scope: Scope = "item"
    required: bool = True
    role: Role = "feature"


class EmissionSection(Section, frozen=True, kw_only=True):
    """`[emission]`: over what the policy sets, see docs/emission-policies.md."""

    first_emit_after: Duration | None = None
    emit_positives: Literal["at_settle", "on_arrival"] | None = None
    final_emit: FinalEmit | None = None


class ExposureSection(Section, frozen=True, kw_only=True):
    """`[exposure]`: `action` is the kind that says an item was on screen."""

    action: str
    unexposed: Literal["drop", "mark"] = "drop"


class SamplingRuleSection(Section, frozen=True, kw_only=True):
    """One of `[[sampling.rules]]`."""

    rate: _Rate
    feature: str | None = None
    equals: bool | int | float | str | None = None
    negative: NegativeKind | None = None


class SamplingSection(Section, frozen=True, kw_only=True):
    """`[sampling]`: the rate at which negatives are written."""

    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**62)] = 0
    rate: _Rate = 1.0
    rules: list[SamplingRuleSection] = msgspec.field(default_factory=list)


#: What the policies set; es_dfm and defer leave it to the configuration when the first row comes.
PRESETS: Mapping[Policy, EmissionSection] = {
    "wait": EmissionSection(emit_positives="at_settle", final_emit="always"),
    "fake_negative": EmissionSection(
        first_emit_after=Duration(0), emit_positives="on_arrival", final_emit="never"
    ),
    "es_dfm": EmissionSection(emit_positives="on_arrival", final_emit="never"),
    "defer": EmissionSection(emit_positives="on_arrival", final_emit="always"),
}


def action_kinds(actions: Mapping[str, ActionSection]) -> tuple[ActionKind, ...]:
    """In the order of the file."""
    return tuple(ActionKind(k, int(a.window), a.label) for k, a in actions.items())


def feature_schema(features: Mapping[str, FeatureSection]) -> FeatureSchema:
    """Raises ValueError for an unknown type, which `check_columns` finds first."""
    return FeatureSchema.of(
        Feature(name, FeatureType.parse(f.type), f.scope, f.required, f.role)
        for name, f in features.items()
    )


def resolve_emission(policy: Policy, own: EmissionSection) -> EmissionSection:
    """The policy's settings, with what `[emission]` says over them."""
    preset = PRESETS[policy]
    return EmissionSection(
        first_emit_after=own.first_emit_after
        if own.first_emit_after is not None
        else preset.first_emit_after,
        emit_positives=own.emit_positives or preset.emit_positives,
        final_emit=own.final_emit or preset.final_emit,
    )


def check(declared: Declaration, wrong: Wrong) -> None:
    """Raises ConfigError for actions and features that cannot be columns."""
    check_actions(declared.actions, wrong)
    check_columns(declared.actions, declared.features, wrong)


def check_actions(actions: Mapping[str, ActionSection], wrong: Wrong) -> None:
    """Raises ConfigError for kinds that the samples cannot have."""
    if not actions:
        raise wrong("actions", "at least one [actions.<kind>] is needed")
    for kind, action in actions.items():
        if not _NAME.fullmatch(kind):
            raise wrong(
                key_of("actions", kind),
                "a kind becomes a part of column names: letters, digits and _ only",
            )
        if len(kind) > _KIND_MAX_LENGTH:
            raise wrong(key_of("actions", kind), f"longer than {_KIND_MAX_LENGTH} characters")
        if action.window <= 0:
            raise wrong(key_of("actions", kind, "window"), "must be longer than 0")
    by_column = {kind.lower(): kind for kind in actions}
    for kind in actions:
        if by_column[kind.lower()] != kind:
            raise wrong(
                key_of("actions", kind),
                f"differs from {by_column[kind.lower()]!r} in upper and lower case only",
            )


def check_columns(
    actions: Mapping[str, ActionSection], features: Mapping[str, FeatureSection], wrong: Wrong
) -> None:
    """Raises ConfigError for features that cannot be columns beside those of the actions."""
    taken = {_alike(column): column for column in reserved_columns(action_kinds(actions))}
    lists = []
    for name, feature in features.items():
        try:
            type_ = FeatureType.parse(feature.type)
        except ValueError as error:
            raise wrong(key_of("features", name, "type"), str(error)) from None
        key = key_of("features", name)
        fault = name_fault(name)
        if fault is not None:
            raise wrong(key, f"a feature becomes a column, and {fault}; rename it")
        if _alike(name) in taken:
            raise wrong(key, f"the samples have a column {taken[_alike(name)]!r} already")
        taken[_alike(name)] = name
        if type_.is_list:
            lists.append(name)
    for name in features:
        for of in lists:
            if name.startswith(f"{of}."):
                raise wrong(
                    key_of("features", name),
                    f"Parquet calls the elements of the list {of!r} so; rename one of the two",
                )


def name_fault(name: str) -> str | None:
    """Why a feature cannot have this name; None if it can.

    The names that are left pass through JSON, Flink SQL, Parquet, Arrow and the trainer as they
    are: letters of any script, spaces, and all other punctuation.
    """
    if not name:
        return "this name is empty"
    if name.startswith("__"):
        return "names that begin with __ are kept for readers of the files"
    for char in name:
        if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp"):
            return f"this name holds the control character U+{ord(char):04X}"
        if char in '"\\':
            return f"this name holds a {char}, which JSON must escape"
    if len(name.encode("utf-16-le")) // 2 > sql.IDENTIFIER_MAX_LENGTH:
        return f"this name is longer than {sql.IDENTIFIER_MAX_LENGTH} characters"
    return None


def _alike(name: str) -> str:
    """Equal for names that some reader of the files takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


# -- for readers of the samples --------------------------------------------------------------------


class JoinedBy(Section, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The part of `[join]` that readers of samples look at."""

    policy: Policy = "wait"


class WrittenTo(Section, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The part of `[output]` that readers of samples look at."""

    path: str


class Declaration(Section, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """A pipeline's file, as a reader of its samples sees it. All other keys are the job's."""

    join: JoinedBy = JoinedBy()
    emission: EmissionSection = EmissionSection()
    exposure: ExposureSection | None = None
    sampling: SamplingSection = SamplingSection()
    actions: dict[str, ActionSection]
    features: dict[str, FeatureSection] = msgspec.field(default_factory=dict)
    output: WrittenTo
    object_storage: ObjectStorageSection = ObjectStorageSection()

    @property
    def kinds(self) -> tuple[ActionKind, ...]:
        """The kinds of action, in the order of the file."""
        return action_kinds(self.actions)

    @property
    def schema(self) -> FeatureSchema:
        """The features, in the order of the file."""
        return feature_schema(self.features)

    @property
    def resolved_emission(self) -> EmissionSection:
        """The policy's settings, with what `[emission]` says over them."""
        return resolve_emission(self.join.policy, self.emission)

    @property
    def exposure_action(self) -> str | None:
        """The kind that says that an item was on screen; None without `[exposure]`."""
        return None if self.exposure is None else self.exposure.action

    @property
    def leaves_out(self) -> bool:
        """Whether a settled impression may have no row.

        That is so when negatives are sampled, and when impressions without exposure are dropped.
        """
        drops = self.exposure is not None and self.exposure.unexposed == "drop"
        return drops or self.sampling.rate < 1 or bool(self.sampling.rules)


def load(path: Path) -> Declaration:
    """What the pipeline's file declares; the output's path is absolute or has a scheme.

    Raises ConfigError.
    """
    declared = read(path, Declaration)
    wrong = wrong_in(path)
    check(declared, wrong)
    try:
        output = beside(path, declared.output.path)
    except ValueError as error:
        raise wrong("output.path", str(error)) from None
    written_to = msgspec.structs.replace(declared.output, path=output)
    return msgspec.structs.replace(declared, output=written_to)
