"""The advice from what a real run of the job wrote: near the truth, whatever the policy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.pipeline.config import load
from tests.flink.running import join
from tools.advise_window import read_events, read_samples
from tools.advise_window.delays import DelayEstimate
from tools.generate.model import ACTIONS, Traffic
from tools.generate.traffic import generate

pytestmark = pytest.mark.thorough

SHORT = ("actions.purchase.window=15min", "join.late_horizon=30min")
SAMPLED = ("join.policy=es_dfm", "emission.first_emit_after=30s", "sampling.rate=0.2")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    generate(Traffic(requests=3_000, items=10, features=1, hours=12, seed=1), folder)
    return folder / "pipeline.toml"


@pytest.mark.parametrize("overrides", [SHORT, SAMPLED], ids=["short", "sampled"])
def test_samples_and_late_actions_say_what_the_events_say(
    overrides: tuple[str, ...], generated: Path, tmp_path: Path
) -> None:
    join(generated, tmp_path / "out", *overrides)
    pipeline = load(generated, [f"output.path={tmp_path / 'out'}", *overrides])
    from_samples = read_samples.read(pipeline).kinds
    from_events = read_events.read(load(generated)).kinds
    drawn = pq.read_table(generated.parent / "truth" / "impressions.parquet")
    told = 0
    # purchases are too few for that
    for model, ours, raw in zip(ACTIONS[:3], from_samples, from_events, strict=False):
        one, other = DelayEstimate(ours), DelayEstimate(raw)
        assert ours.impressions == pytest.approx(raw.impressions, rel=0.02)
        assert one.ever_act == pytest.approx(other.ever_act, rel=0.03)
        for target in (0.8, 0.95):
            advice = one.window(target)
            truth = float(np.quantile(drawn[f"delay_{model.kind}_ms"].drop_null(), target))
            if not advice.told:
                # a refusal shows a limit that holds, and no window
                assert advice.low <= truth * 1.08
                continue
            told += 1
            assert advice.window_ms == pytest.approx(other.window(target).window_ms, rel=0.05)
            # of what was drawn: chance is not the estimate's fault
            assert advice.window_ms == pytest.approx(truth, rel=0.08)
    assert told > 0
    for ours, raw in zip(from_samples, from_events, strict=True):
        # none but stragglers are missing within the horizon
        horizon = pipeline.rules.late_horizon
        assert len(ours.delays) == pytest.approx(
            (raw.until(horizon).delays <= horizon).sum(), rel=0.03, abs=3
        )
