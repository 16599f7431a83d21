"""Steps sample by sample, which the worker makes on a copy; the parameters get the changes."""

from __future__ import annotations

from trainer.features.batch import Batch
from trainer.losses.targets import LossRules
from trainer.models.by_sample import Walker
from trainer.run.steps import Learned
from trainer.server.shard import Pulled
from trainer.spec import ModelSpec


class SampleSteps:
    """See `trainer.run.steps.Steps`. Pushes changes of states."""

    states = True

    def __init__(self, spec: ModelSpec, rules: LossRules) -> None:
        self._walker = Walker(spec, rules.loss, rules.offset)

    def learn(self, batch: Batch, pulled: Pulled) -> Learned:
        """See `Steps.learn`."""
        states = [of_table for of_table, _ in pulled.tables]
        known = [of_table for _, of_table in pulled.tables]
        walked = self._walker.walk(batch, states, known, pulled.dense)
        return Learned(walked.logits, walked.counted, walked.changes, walked.dense, walked.refused)
