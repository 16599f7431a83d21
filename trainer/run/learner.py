"""One batch: pull, predict, loss and gradient, push. It is the same wherever parameters are."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from trainer.config.sections import StepsPer
from trainer.evaluation.sampling import Factors, RowSample
from trainer.evaluation.tally import Layout, Tally
from trainer.features.batch import Batch
from trainer.losses.targets import LossRules
from trainer.models import bags
from trainer.run.batch_steps import BatchSteps
from trainer.run.job import Outcome
from trainer.run.sample_steps import SampleSteps
from trainer.run.steps import Learned, Steps
from trainer.server.parameters import Meanwhile, Parameters, nothing
from trainer.server.shard import Pulled
from trainer.spec import ModelSpec

#: Tables store the time of a key's newest sample as seconds in 32 bits.
_LAST_SECOND = 2**32 - 1


class Learner:
    """Learns batches of a model. Not for several threads.

    `rows`: the size of a full batch. `steps`: see `trainer.run.steps`. `slice_share`: the share of
    the rows that are counted in slices (`trainer.evaluation.sampling`). `sharing`: other workers
    change the same states meanwhile, so changes are divided (`trainer.server.sharing`).
    """

    def __init__(
        self,
        spec: ModelSpec,
        rules: LossRules,
        layout: Layout,
        rows: int,
        steps: StepsPer = "batch",
        slice_share: float = 1.0,
        *,
        sharing: bool = False,
    ) -> None:
        #: The metrics of the batches since the last `take_tally`.
        self.tally = Tally(layout)
        self._layout, self._sharing = layout, sharing
        self._sample = RowSample(slice_share, layout.window_ms)
        self._counted = [table.admit_after > 1 for table in spec.tables]
        self._steps: Steps = (
            SampleSteps(spec, rules) if steps == "sample" else BatchSteps(spec, rules, rows)
        )

    def learn(
        self,
        batch: Batch,
        parameters: Parameters,
        sequence: int,
        step: int,
        read_s: float = 0.0,
        read_ahead: Meanwhile = nothing,
    ) -> Outcome:
        """Predict a batch and learn from it. Returns when its push is safe.

        `read_ahead`: makes the next batch, if it is known; done while servers look up the values.
        """
        began = time.perf_counter()
        states = self._steps.states
        samples = bags.samples(batch) if states and self._sharing else None
        keys_of = [bag.keys for bag in batch.tables]
        reading = _Timed(read_ahead)
        pulled = parameters.pull(step, keys_of, states=states, samples=samples, meanwhile=reading)
        pulled_at = time.perf_counter()
        made = self._steps.learn(batch, pulled)
        computed_at = time.perf_counter()
        newest = int(batch.times.max()) if batch.rows else 0
        now = min(max(newest // 1000, 0), _LAST_SECOND)
        counts = [
            bag.counts if counted else None
            for bag, counted in zip(batch.tables, self._counted, strict=True)
        ]
        # the evaluation needs nothing of the servers, so it is done while they take the push
        counting = _Timed(lambda: self._count(batch, pulled, made))
        parameters.push(
            *(sequence, step, now, made.pushed, counts, made.dense),
            changes=states,
            meanwhile=counting,
        )
        pushed_at = time.perf_counter()
        keys = sum(len(bag.keys) for bag in batch.tables)
        seconds = (
            read_s + reading.seconds,
            pulled_at - began - reading.seconds,
            computed_at - pulled_at + counting.seconds,
            pushed_at - computed_at - counting.seconds,
        )
        return Outcome(batch.rows, keys, newest, seconds)

    def _count(self, batch: Batch, pulled: Pulled, made: Learned) -> None:
        """Count the rows of a batch in the metrics."""
        factors = self._sample.factors(batch.times)
        present, unseen = self._slots_of(batch, [known for _, known in pulled.tables], factors)
        self.tally.add(
            *(made.logits, batch.targets.labels, made.counted, batch.times, batch.slices),
            *(present, unseen, factors),
        )
        self.tally.note(batch.clipped, made.refused)

    def take_tally(self) -> Tally:
        """The metrics since the last call."""
        taken, self.tally = self.tally, Tally(self._layout)
        return taken

    def _slots_of(self, batch: Batch, known: list[Any], factors: Factors | None) -> tuple[Any, Any]:
        """By row and slot: whether the slot has a key, and one that has no parameters yet.

        Rows whose factor is 0 may be left out.
        """
        # the bias, which is the last slot and in every row, is not followed
        followed = len(self._layout.slots)
        shape = (batch.rows, followed)
        present, unseen = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        if batch.by_row is not None:
            of_all = np.concatenate(known)
            which = np.ones(batch.rows, bool) if factors is None else factors > 0
            bags.mark_rows(batch.by_row, of_all, which, present, unseen)
            return present, unseen
        for bag, of_table in zip(batch.tables, known, strict=True):
            for slot, index, row, _ in bag.by_slot():
                if slot < followed:
                    bags.mark(index, row, of_table, present, unseen, slot)
        return present, unseen


class _Timed:
    """Work, and the `seconds` that it took."""

    def __init__(self, work: Meanwhile) -> None:
        self._work = work
        self.seconds = 0.0

    def __call__(self) -> None:
        began = time.perf_counter()
        self._work()
        self.seconds += time.perf_counter() - began
