"""Steps by the summed gradient of a batch: one for each key, which the parameters make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainer.features.batch import Batch, Floats, Targets
from trainer.limits import MAX_GRADIENT
from trainer.losses import objective
from trainer.losses.targets import LossRules
from trainer.models import bags
from trainer.models.network import Network, embedded_slots, padded
from trainer.run.steps import Learned
from trainer.server.shard import Pulled
from trainer.spec import ModelSpec
from trainer.table.finite import NotFiniteError


@dataclass
class _Step:
    logits: Floats
    evaluated: Floats
    linear: Floats
    pooled: Floats
    dense: Floats | None
    refused: int


class BatchSteps:
    """See `trainer.run.steps.Steps`. Pushes gradients.

    `rows`: the size of a full batch. Smaller ones are padded to a power of two, so that JAX
    compiles few shapes.
    """

    states = False

    def __init__(self, spec: ModelSpec, rules: LossRules, rows: int) -> None:
        self.spec = spec
        self._full = rows
        self._place = embedded_slots(spec)
        self._step = _compiled(spec, rules)

    def learn(self, batch: Batch, pulled: Pulled) -> Learned:
        """See `Steps.learn`."""
        values = [of_table for of_table, _ in pulled.tables]
        linear, pooled = bags.sums(self.spec, batch, values, self._padded(batch.rows))
        made = self._differentiate(linear, pooled, pulled.dense, batch.targets)
        gradients = [
            bags.spread(bag, table.width, made.linear, made.pooled, self._place)
            for bag, table in zip(batch.tables, self.spec.tables, strict=True)
        ]
        return Learned(made.logits, made.evaluated, gradients, made.dense, made.refused)

    def _padded(self, rows: int) -> int:
        return min(max(self._full, rows), padded(rows))

    def _differentiate(
        self, linear: Floats, pooled: Floats, dense: Floats | None, targets: Targets
    ) -> _Step:
        rows, padded = len(targets.labels), len(linear)
        filled = [
            _filled(array, padded)
            for array in (targets.labels, targets.weights, targets.delayed, targets.delayed_weights)
        ]
        vector = np.zeros(0, np.float32) if dense is None else dense
        logits, evaluated, gradients, good = self._step(linear, pooled, vector, *filled)
        bad = np.flatnonzero(~np.asarray(good))
        if len(bad):
            # without these rows, because one of them would make the gradient of all useless
            linear, pooled = _without(linear, bad), _without(pooled, bad)
            filled = [_without(array, bad) for array in filled]
            logits, evaluated, gradients, good = self._step(linear, pooled, vector, *filled)
            if not np.asarray(good).all():
                raise NotFiniteError(
                    "the dense parameters give no finite prediction for a row without features."
                    " Lower optimizer.dense.rate, and go on from the last checkpoint"
                )
        of_linear, of_pooled, of_dense = (np.asarray(g) for g in gradients)
        return _Step(
            np.asarray(logits)[:rows],
            np.asarray(evaluated)[:rows],
            of_linear[:rows],
            of_pooled[:rows],
            None if dense is None else of_dense,
            int(np.count_nonzero(bad < rows)),
        )


@cache
def _compiled(spec: ModelSpec, rules: LossRules) -> Callable[..., Any]:
    """The compiled function of a model. All learners of the model share it, so it is compiled once.

    It takes the sums, the dense vector and the targets. It returns the actions' logits, how much
    each row counts in the metrics, the gradients, and which rows have finite logits and gradients.
    """
    network, kind, offset = Network(spec), rules.loss, rules.offset

    def step(
        linear: Any,
        pooled: Any,
        dense: Any,
        labels: Any,
        weights: Any,
        delayed: Any,
        delayed_weights: Any,
    ) -> tuple[Any, Any, Any, Any]:
        def loss(linear: Any, pooled: Any, dense: Any) -> Any:
            logits = network.logits(linear, pooled, dense)
            total = objective.row_losses(
                kind, logits, labels, weights, delayed, delayed_weights, offset
            )
            return total, logits

        gradient = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
        (_, logits), gradients = gradient(linear, pooled, dense)
        counted = objective.evaluation_weights(kind, logits, labels, weights, offset)
        of_linear, of_pooled, of_dense = gradients
        good = jnp.isfinite(logits).all(1) & jnp.isfinite(counted).all(1)
        good &= jnp.isfinite(of_linear).all(1) & jnp.isfinite(of_pooled).all((1, 2))
        # the sum over rows may overflow, and then it does not show which row is to blame
        of_dense = jnp.nan_to_num(of_dense, posinf=MAX_GRADIENT, neginf=-MAX_GRADIENT)
        cut = [jnp.clip(g, -MAX_GRADIENT, MAX_GRADIENT) for g in (of_linear, of_pooled, of_dense)]
        return logits[:, : labels.shape[1]], counted, cut, good

    compiled: Callable[..., Any] = jax.jit(step)
    return compiled


def _without(array: Floats, rows: Any) -> Floats:
    """A copy with zeros in these rows."""
    out: Floats = array.copy()
    out[rows] = 0
    return out


def _filled(array: Floats, rows: int) -> Floats:
    if len(array) == rows:
        return array
    out = np.zeros((rows, array.shape[1]), np.float32)
    out[: len(array)] = array
    return out
