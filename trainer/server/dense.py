"""The dense parameters of a model: one float32 vector on one shard, beside the state of optax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.limits import MAX_GRADIENT
from trainer.spec import ModelSpec
from trainer.table.optimizers import Floats


class Dense:
    """The vector, with Adam by optax over all of it."""

    def __init__(self, spec: ModelSpec, values: Floats) -> None:
        # the import takes a second or two, and a logistic regression does not need it
        import jax
        import optax

        o = spec.dense
        self._optimizer = optax.adam(o.rate, b1=o.beta1, b2=o.beta2, eps=o.epsilon)
        self.values = values
        self._state: Any = self._optimizer.init(values)
        self._tree = jax.tree.structure(self._state)
        self._leaves, self._unflatten = jax.tree.leaves, jax.tree.unflatten

        def step(values: Any, state: Any, gradient: Any) -> Any:
            updates, state = self._optimizer.update(gradient, state, values)
            return optax.apply_updates(values, updates), state

        self._step = jax.jit(step)

    @classmethod
    def initial(cls, spec: ModelSpec) -> Dense | None:
        """The start values of a new model; None where the model has no dense parameters."""
        if not has_dense(spec):
            return None
        from trainer.models.network import initial_dense

        return cls(spec, initial_dense(spec))

    @classmethod
    def of(cls, spec: ModelSpec, arrays: Sequence[Floats]) -> Dense:
        """A copy made from the result of `arrays`."""
        dense = cls(spec, np.asarray(arrays[0], np.float32))
        dense._state = dense._unflatten(dense._tree, list(arrays[1:]))
        return dense

    def update(self, gradient: Floats) -> None:
        """Do one step. A part of the gradient that is NaN counts as 0."""
        gradient = np.nan_to_num(gradient, posinf=MAX_GRADIENT, neginf=-MAX_GRADIENT)
        gradient = np.clip(gradient, -MAX_GRADIENT, MAX_GRADIENT)
        values, self._state = self._step(self.values, self._state, gradient)
        self.values = np.asarray(values)

    def arrays(self) -> list[Floats]:
        """The vector, and the optimizer's state, as arrays."""
        return [self.values.copy(), *(np.array(leaf) for leaf in self._leaves(self._state))]


def has_dense(spec: ModelSpec) -> bool:
    """Whether a model has dense parameters. Does not make them."""
    return spec.kind == "deepfm" or (spec.kind == "fm" and len(spec.heads) > 1)
