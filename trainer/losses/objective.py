"""The losses, in JAX: log loss, weighted so that rows with delayed labels give the right model.

For one impression with features x let p be the probability that it acts within the window, and
d that it acts in it, but after the first row (so 0 <= d <= p). A policy writes rows whose share of
positives is q(1|x), not p. A row with label y weighs p(y|x) / q(y|x); p and d in it are the model's
own, as constants (stop_gradient). Then, where the model is right, the weighted shares are those of
the truth, and the gradient is zero.

| loss | rows of an impression | positive q(1) | negative q(0) |
|---|---|---|---|
| plain | one, right | p | 1 - p |
| fnw | a negative; if it acts, a positive | p / (1 + p) | 1 / (1 + p) |
| es_dfm | as known first; if d, a positive | p / (1 + d) | (1 - p + d) / (1 + d) |
| defer | as known first; as known last | (2p - d) / 2 | (2 - 2p + d) / 2 |

Actions come first in the logits; for es_dfm and defer as many heads for d follow them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from trainer.losses.targets import LossKind

#: jax.Array, or what it makes of numpy's arrays.
Array = Any

#: The least divisor, so that 0 / 0 cannot occur. A normal float32, below all that matters.
_TINY = 1e-30


def row_losses(
    loss: LossKind,
    logits: Array,
    labels: Array,
    weights: Array,
    delayed: Array,
    delayed_weights: Array,
    offset: Array | float = 0.0,
) -> Array:
    """The loss of a batch, summed over rows and heads: a float32 scalar.

    `logits`: (rows, heads). The others are those of `Targets`: (rows, actions), the delayed ones
    (rows, 0) for plain and fnw. `offset`: `LossRules.offset`, added to the actions' logits. It is
    used for the log loss only. The importance weights, and `probability`, are about traffic that
    was not sampled.
    """
    actions = labels.shape[1]
    importance = _importance(loss, logits, labels)
    total = jnp.sum(weights * importance * _log_loss(logits[:, :actions] + offset, labels))
    if loss in ("es_dfm", "defer"):
        heads = logits[:, actions:]
        weights_of_delayed = delayed_weights
        if loss == "es_dfm":
            # 1 row as known first (0), and with probability d a duplicate (1): the rows of fnw
            weights_of_delayed = weights_of_delayed * _fnw(heads, delayed)
        total += jnp.sum(weights_of_delayed * _log_loss(heads, delayed))
    return total


def probability(loss: LossKind, logits: Array) -> Array:
    """The probability that an action happens in its window, in traffic that is not sampled.

    (rows, actions).
    """
    return jax.nn.sigmoid(_actions(loss, logits))


def evaluation_weights(
    loss: LossKind, logits: Array, labels: Array, weights: Array, offset: Array | float = 0.0
) -> Array:
    """How much each row counts in the metrics of each action, (rows, actions).

    The weights of the loss times the importance weights. So counts are impressions of the traffic,
    up to a factor per x (1 + p for fnw). With an `offset`, a negative also stands for those that
    sampling left out; in the loss the offset does that.
    """
    unsampled = jnp.where(labels > 0.5, 1.0, jnp.exp(offset))
    return weights * unsampled * _importance(loss, logits, labels)


def _actions(loss: LossKind, logits: Array) -> Array:
    heads = logits.shape[1]
    return logits[:, : heads // 2] if loss in ("es_dfm", "defer") else logits


def _log_loss(logits: Array, labels: Array) -> Array:
    """-log of the probability of the label (0 or 1); softplus keeps it finite."""
    return jax.nn.softplus(jnp.where(labels > 0.5, -logits, logits))


def _importance(loss: LossKind, logits: Array, labels: Array) -> Array:
    """p(y|x) / q(y|x) by the model; no gradient flows through it."""
    if loss == "plain":
        return jnp.ones_like(labels)
    actions = _actions(loss, logits)
    if loss == "fnw":
        return _fnw(actions, labels)
    weigh = _es_dfm if loss == "es_dfm" else _defer
    return weigh(actions, logits[:, actions.shape[1] :], labels)


def _fnw(logits: Array, labels: Array) -> Array:
    """Fake negative weighted, Ktena et al., Addressing delayed feedback, RecSys 2019.

    p / (p / (1 + p)) = 1 + p;  (1 - p) / (1 / (1 + p)) = (1 - p)(1 + p).
    """
    logits = jax.lax.stop_gradient(logits)
    p = jax.nn.sigmoid(logits)
    return (1.0 + p) * jnp.where(labels > 0.5, 1.0, jax.nn.sigmoid(-logits))


def _es_dfm(logits: Array, delayed: Array, labels: Array) -> Array:
    """Yang et al., Capturing delayed feedback via elapsed-time sampling, AAAI 2021.

    p / (p / (1 + d)) = 1 + d;  (1 - p) / ((1 - p + d) / (1 + d)) = (1 + d) r, where
    r = (1 - p) / (1 - p + d) is the probability that an observed negative is a real one. The paper
    trains two classifiers beforehand, for d and for r; here d is a head of the model, and r follows
    from it and p by this identity.
    """
    logits, delayed = jax.lax.stop_gradient((logits, delayed))
    d = jax.nn.sigmoid(delayed)
    real = 1.0 / (1.0 + d / jnp.maximum(jax.nn.sigmoid(-logits), _TINY))
    return (1.0 + d) * jnp.where(labels > 0.5, 1.0, real)


def _defer(logits: Array, delayed: Array, labels: Array) -> Array:
    """Gu et al., Real negatives matter, KDD 2021.

    p / (p - d / 2), and (1 - p) / (1 - p + d / 2). d is taken to be at most p, as it is in truth,
    so the first is at most 2.
    """
    logits, delayed = jax.lax.stop_gradient((logits, delayed))
    d = jax.nn.sigmoid(delayed)
    share = jnp.minimum(d / jnp.maximum(jax.nn.sigmoid(logits), _TINY), 1.0)
    real = 1.0 / (1.0 + 0.5 * d / jnp.maximum(jax.nn.sigmoid(-logits), _TINY))
    return jnp.where(labels > 0.5, 1.0 / (1.0 - 0.5 * share), real)
