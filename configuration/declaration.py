"""What a pipeline's file declares of its samples, for the job that writes them and for whoever

reads them: the features, the actions, and which rows a sample has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from configuration.reading import Duration, Section, Wrong, beside, read, wrong_in
from schemas.actions import ActionKind, Label
from schemas.features import Feature, FeatureSchema, FeatureType, Role, Scope
from schemas.samples import FinalEmit, NegativeKind, reserved_columns

Policy = Literal["wait", "fake_negative", "es_dfm", "defer"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
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
    """Raises ValueError for types that there are not, which `check_columns` finds first."""
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


def check_actions(actions: Mapping[str, ActionSection], wrong: Wrong) -> None:
    """Raises ConfigError for kinds that the samples cannot have."""
    if not actions:
        raise wrong("actions", "at least one [actions.<kind>] is needed")
    for kind, action in actions.items():
        if not _NAME.fullmatch(kind):
            raise wrong(f"actions.{kind}", "a kind becomes a column: letters, digits and _ only")
        if action.window <= 0:
            raise wrong(f"actions.{kind}.window", "must be longer than 0")


def check_columns(
    actions: Mapping[str, ActionSection], features: Mapping[str, FeatureSection], wrong: Wrong
) -> None:
    """Raises ConfigError for features that cannot be columns beside those of the actions."""
    taken = {column.lower(): column for column in reserved_columns(action_kinds(actions))}
    for name, feature in features.items():
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


# -- for readers of the samples --------------------------------------------------------------------


class JoinedBy(Section, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The part of `[join]` that readers of samples look at."""

    policy: Policy = "wait"


class WrittenTo(Section, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The part of `[output]` that readers of samples look at."""

    path: str


class Declaration(Section, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """A pipeline's file, seen by a reader of its samples. What else is in it is the job's own."""

    join: JoinedBy = JoinedBy()
    emission: EmissionSection = EmissionSection()
    exposure: ExposureSection | None = None
    sampling: SamplingSection = SamplingSection()
    actions: dict[str, ActionSection]
    features: dict[str, FeatureSection] = msgspec.field(default_factory=dict)
    output: WrittenTo

    @property
    def kinds(self) -> tuple[ActionKind, ...]:
        return action_kinds(self.actions)

    @property
    def schema(self) -> FeatureSchema:
        return feature_schema(self.features)

    @property
    def resolved_emission(self) -> EmissionSection:
        """The policy's settings, with what `[emission]` says over them."""
        return resolve_emission(self.join.policy, self.emission)

    @property
    def exposure_action(self) -> str | None:
        """The kind that says an item was on screen, if there is one."""
        return None if self.exposure is None else self.exposure.action

    @property
    def leaves_out(self) -> bool:
        """Whether a settled impression may have no row: negatives are sampled, or the unexposed

        are dropped.
        """
        drops = self.exposure is not None and self.exposure.unexposed == "drop"
        return drops or self.sampling.rate < 1 or bool(self.sampling.rules)


def load(path: Path) -> Declaration:
    """What the pipeline's file declares; the output's path is absolute or has a scheme.

    Raises ConfigError.
    """
    declared = read(path, Declaration)
    check_actions(declared.actions, wrong_in(path))
    check_columns(declared.actions, declared.features, wrong_in(path))
    written_to = msgspec.structs.replace(declared.output, path=beside(path, declared.output.path))
    return msgspec.structs.replace(declared, output=written_to)
