"""Which negatives are written (docs/join-semantics.md 9). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from schemas.samples import NegativeKind


@dataclass(frozen=True)
class SamplingRule:
    """The rate for negatives with a feature value, of a kind of negative, or with both."""

    rate: float
    feature: str | None = None
    equals: bool | int | float | str | None = None
    negative: NegativeKind | None = None


@dataclass(frozen=True)
class Sampling:
    """The rate of a negative is that of the first rule that matches, else `rate`."""

    seed: int = 0
    rate: float = 1.0
    rules: tuple[SamplingRule, ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        """The features that the rules use."""
        return tuple({rule.feature: None for rule in self.rules if rule.feature is not None})

    @property
    def off(self) -> bool:
        """Whether every negative is kept."""
        return self.rate == 1.0 and not self.rules

    def rate_of(self, features: Mapping[str, object], *, exposed: bool | None) -> float:
        """The rate of a negative with these features. `exposed` None counts as exposed."""
        negative = "unexposed" if exposed is False else "exposed"
        for rule in self.rules:
            if rule.negative not in (None, negative):
                continue
            if rule.feature is None or _same(features[rule.feature], rule.equals):
                return rule.rate
        return self.rate

    def keeps(self, sample_id: int, rate: float) -> bool:
        """Whether a negative of this sample is written at this rate. The answer never changes."""
        if rate >= 1.0:
            return True
        u = xxh3_64_intdigest(sample_id.to_bytes(8, "little", signed=True), self.seed) / 2**64
        return u < rate


def _same(value: object, wanted: object) -> bool:
    """Equal, where True is not equal to 1."""
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)
