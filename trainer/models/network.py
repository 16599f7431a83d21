"""From the sums of the sparse layer to logits, in JAX, which also differentiates it.

`linear`: (rows, heads). `pooled`: (rows, slots, embedding), the embeddings of each slot summed.
Dense parameters are one flat float32 vector, as the servers keep it.

* lr: the sum of the weights, and the logit of the base rate (`ModelSpec.base`).
* fm: plus the interactions of the slots (Rendle, Factorization machines, ICDM 2010, equation 3 with
  the sum of squares): values of one list are summed first and do not interact with each other.
* deepfm: plus a perceptron over the same embeddings (Guo et al., DeepFM, IJCAI 2017).

With several heads the embeddings are shared, and each head weighs the components of the
interaction for itself (dense parameters that begin with 1); with one head they are not weighed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from trainer.features.batch import Floats
from trainer.limits import MAX_SUM
from trainer.spec import ModelSpec


def embedded_slots(spec: ModelSpec) -> dict[int, int]:
    """For each slot with an embedding: its number in the spec, and its number in `pooled`."""
    if spec.kind == "lr":
        return {}
    with_embedding = [
        n for n, slot in enumerate(spec.slots) if len(spec.tables[slot.table].segments) > 1
    ]
    return {slot: n for n, slot in enumerate(with_embedding)}


def padded(rows: int) -> int:
    """The number of rows to compute with: a power of two.

    JAX compiles a function for every number of rows that it sees.
    """
    return 1 << max(0, (rows - 1).bit_length())


def initial_dense(spec: ModelSpec) -> Floats:
    """The dense parameters of a new model, float32 (D,); D is 0 where the model has none."""
    flat, _ = ravel_pytree(_initial(spec))
    return np.array(flat, dtype=np.float32)


def dense_layout(spec: ModelSpec) -> tuple[Callable[[Any], Floats], Callable[[Floats], Any]]:
    """Two functions: from a tree of arrays to the dense vector, and from the vector to a tree.

    The tree may be changed. `interaction`: (embedding, heads). `layers`: for each its `weights`,
    (inputs, outputs), and `bias`.
    """
    _, unravel = ravel_pytree(_initial(spec))

    def flatten(tree: Any) -> Floats:
        return np.array(ravel_pytree(tree)[0], dtype=np.float32)

    def unflatten(vector: Floats) -> Any:
        tree: Any = unravel(jnp.asarray(vector, jnp.float32))
        return jax.tree.map(np.array, tree)

    return flatten, unflatten


def _initial(spec: ModelSpec) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    heads = len(spec.heads)
    if spec.kind != "lr" and heads > 1:
        tree["interaction"] = jnp.ones((spec.embedding, heads), jnp.float32)
    if spec.kind == "deepfm":
        widths = [len(embedded_slots(spec)) * spec.embedding, *spec.hidden, heads]
        keys = jax.random.split(jax.random.key(spec.seed), len(widths) - 1)
        tree["layers"] = [
            {
                # He et al., Delving deep into rectifiers, ICCV 2015
                "weights": jax.random.normal(key, (n, m), jnp.float32) * (2.0 / n) ** 0.5,
                "bias": jnp.zeros(m, jnp.float32),
            }
            for key, n, m in zip(keys, widths, widths[1:], strict=False)
        ]
    return tree


class Network:
    """The logits of a model as a function of sums and dense parameters."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        _, self._unflatten = ravel_pytree(_initial(spec))

    def logits(self, linear: Any, pooled: Any, dense: Any) -> Any:
        """The logits, (rows, heads). JAX traces this function."""
        kind = self.spec.kind
        # beyond these bounds an interaction is not finite in float32 (`trainer.limits`)
        linear = jnp.clip(linear, -MAX_SUM, MAX_SUM)
        if self.spec.base:
            linear = linear + jnp.asarray(self.spec.base, jnp.float32)
        if kind == "lr":
            return linear
        pooled = jnp.clip(pooled, -MAX_SUM, MAX_SUM)
        tree = self._unflatten(dense)
        total = pooled.sum(axis=1)
        crossed = 0.5 * (total * total - (pooled * pooled).sum(axis=1))
        if "interaction" in tree:
            out = linear + crossed @ tree["interaction"]
        else:
            out = linear + crossed.sum(axis=1, keepdims=True)
        if kind == "deepfm":
            hidden = pooled.reshape(pooled.shape[0], -1)
            for n, layer in enumerate(tree["layers"]):
                hidden = hidden @ layer["weights"] + layer["bias"]
                if n + 1 < len(tree["layers"]):
                    hidden = jax.nn.relu(hidden)
            out = out + hidden
        return out
