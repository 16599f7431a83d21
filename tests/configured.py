"""The configuration file of a pipeline that joins by the `Rules` of a timeline."""

from __future__ import annotations

from dataclasses import asdict

import msgspec

from tests.core_runner import SCHEMA
from tests.timeline import Rules


def toml(rules: Rules, out_of_orderness: str | None = None) -> str:
    """A pipeline's file. Its paths are `features`, `actions` and `out`, beside the file.

    `out_of_orderness`: of both streams; without it, what the rules need.
    """
    out = f"""
[join]
key = "{rules.key}"
clock_skew = "{rules.skew}ms"
allowed_lateness = "{rules.lateness}ms"
{_duration("late_horizon", rules.horizon)}
[limits]
actions_per_{rules.key.removesuffix("_id")} = {rules.max_actions}
[end_of_input]
immature = "{rules.immature}"
[emission]
emit_positives = "{rules.emit_positives}"
final_emit = "{rules.final_emit}"
{_duration("first_emit_after", rules.first_emit_after)}
[sampling]
seed = {rules.sampling.seed}
rate = {rules.sampling.rate}
"""
    for rule in rules.sampling.rules:
        set_ = {k: v for k, v in asdict(rule).items() if v is not None}
        out += "[[sampling.rules]]\n"
        out += "".join(f"{k} = {msgspec.json.encode(v).decode()}\n" for k, v in set_.items())
    if rules.exposure is not None:
        out += f'[exposure]\naction = "{rules.exposure}"\nunexposed = "{rules.unexposed}"\n'
    if rules.silence is not None:
        out += f'[label_silence]\nafter = "{rules.silence.after}ms"\n'
        out += _duration("max_hold", rules.silence.max_hold)
    for kind, window in rules.windows.items():
        out += f'[actions.{kind}]\nwindow = "{window}ms"\nlabel = "{rules.labels[kind]}"\n'
    for feature in SCHEMA.features:
        out += f'[features.{feature.name}]\ntype = "{feature.type}"\nscope = "{feature.scope}"\n'
        out += f"required = {str(feature.required).lower()}\n"
    of_rules = 0 if rules.silence is None else rules.silence.out_of_orderness
    bound = out_of_orderness or f"{of_rules}ms"
    for stream in ("features", "actions"):
        out += f'[sources.{stream}]\ntype = "files"\npath = "{stream}"\n'
        out += f'out_of_orderness = "{bound}"\n'
    return out + '[output]\npath = "out"\n'


def _duration(key: str, ms: int | None) -> str:
    return "" if ms is None else f'{key} = "{ms}ms"\n'
