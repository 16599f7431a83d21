"""Learning sample by sample: a batch is walked row by row on a local copy of its keys' states.

Each row makes one step of each of its keys, by a prediction with what the rows before it have made
of the states. So the steps are those of an optimizer that sees one sample at a time, whatever the
size of the batch. What the batch has changed is the difference of the states, which the parameters
take as a sum (`Table.change`).

What the metrics get is another prediction of each row, with the states as they were pulled. A model
is served like that: it does not know the labels of the rows just before, which often are of the
same request.

The copy is float64: a step may be far less than the last digit of a float32 state, and a batch of
them is not.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.features.batch import Batch, Floats
from trainer.limits import MAX_GRADIENT
from trainer.losses.row_gradient import NUMBERS
from trainer.losses.targets import LossKind
from trainer.models.network import embedded_slots
from trainer.models.sample_kernels import (
    ADAGRAD,
    FTRL,
    UNLEARNED,
    difference,
    open_states,
    walk,
)
from trainer.spec import AdaGrad, Ftrl, ModelSpec, Segment

#: The optimizers that this can walk with. (Adam's moments forget, so changes of them do not add.)
OPTIMIZERS = (Ftrl, AdaGrad)


@dataclass
class Walked:
    """What came of a batch.

    `logits`: those of the actions, by the states as they were pulled, and `counted`, how much each
    row counts in the metrics: float32 (rows, actions). `changes`: for each table, of its keys'
    states, float32 (keys, floats). `dense`: the gradient of the dense vector, summed over the
    batch, (D,); None: the model has none. `refused`: how many rows had no finite prediction or
    gradient.
    """

    logits: Floats
    counted: Floats
    changes: list[Floats]
    dense: Floats | None
    refused: int


class Walker:
    """Walks batches of a logistic regression or factorization machine. Not for several threads."""

    def __init__(self, spec: ModelSpec, loss: LossKind, offset: float) -> None:
        self._heads, self._loss, self._offset = len(spec.heads), NUMBERS[loss], float(offset)
        self._base = np.zeros(self._heads)
        self._base[: len(spec.base)] = spec.base
        self._rates = np.array([_rates(table.segments[0].optimizer) for table in spec.tables])
        self._embedding, self._place = spec.embedding, embedded_slots(spec)
        self._embedding_rates = np.array(
            [_embedding_rate(table.segments[1:]) for table in spec.tables]
        )
        self._counted = [table.admit_after > 1 for table in spec.tables]

    def walk(
        self,
        batch: Batch,
        states: Sequence[Floats],
        known: Sequence[npt.NDArray[np.uint8]],
        dense: Floats | None = None,
    ) -> Walked:
        """`states`, (keys, floats), `known`, (keys,), of each table, and `dense`: see `Pulled`.

        A key that has no row, and gets none by its first push, is not learned.
        """
        sizes = [len(s) for s in states]
        # small numbers: a step looks the table of its key up, too
        assert len(sizes) < 2**15
        table = np.repeat(np.arange(len(sizes), dtype=np.int16), sizes)
        heads = self._heads
        before = np.concatenate([s[:, : 2 * heads].reshape(len(s), 2, heads) for s in states])
        local = np.empty((len(table), heads, 4))
        open_states(table, self._rates, before, local)
        machine = self._machine_of([s[:, 2 * heads :] for s in states], dense)
        rows, targets = _by_row(batch, self._place), batch.targets
        of_rows = (targets.labels, targets.weights, targets.delayed, targets.delayed_weights)
        loss = (self._loss, self._offset, self._base)
        logits = np.zeros(targets.labels.shape, np.float32)
        counted = np.zeros(targets.labels.shape, np.float32)
        good = np.ones(batch.rows, np.bool_)
        told = logits, counted
        table[self._unlearned(known)] = UNLEARNED
        for learn in (False, True):
            walk(rows, (table, self._rates), local, machine, of_rows, loss, good, told, learn)
        logits[~good], counted[~good] = self._base[: targets.labels.shape[1]], 0.0
        changes = np.empty_like(before)
        difference(before, local, changes)
        at = np.cumsum([0, *map(len, states)])
        parts = []
        for n, of in enumerate(states):
            mine = slice(at[n], at[n + 1])
            moved = [changes[mine].reshape(len(of), 2 * heads)]
            if machine is not None and of.shape[1] > 2 * heads:
                embedded = machine[0][mine].reshape(len(of), 2 * self._embedding)
                moved.append((embedded - of[:, 2 * heads :]).astype(np.float32))
            parts.append(np.concatenate(moved, axis=1))
        gradient = None
        if machine is not None and dense is not None:
            bounded = np.clip(machine[3], -MAX_GRADIENT, MAX_GRADIENT)
            gradient = bounded.astype(np.float32).reshape(-1)
        return Walked(logits, counted, parts, gradient, int(np.count_nonzero(~good)))

    def _unlearned(self, known: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.bool_]:
        """Of which keys no step is made: those that have no row, and get none by a first push."""
        parts = zip(known, self._counted, strict=True)
        return np.concatenate([k != 1 if c else np.zeros(len(k), np.bool_) for k, c in parts])

    def _machine_of(
        self, embedded: Sequence[Floats], dense: Floats | None
    ) -> tuple[npt.NDArray[Any], ...] | None:
        """What a factorization machine has beside its weights; None: the model is none.

        For each key the embedding and AdaGrad's n, (keys, 2, width), and the rate of its table; the
        weights of the interactions, and their gradients, both (width, heads); room for the sums of
        a row: embeddings by slot, all of them, interactions, gradients.
        """
        if not self._place:
            return None
        width = self._embedding
        embeddings = np.zeros((sum(map(len, embedded)), 2, width))
        at = 0
        for of in embedded:
            if of.shape[1]:
                embeddings[at : at + len(of)] = of.reshape(len(of), 2, width)
            at += len(of)
        weights = np.ones((width, self._heads))
        if dense is not None:
            weights[:] = dense.reshape(weights.shape)
        room = (np.empty((len(self._place), width)), *(np.empty(width) for _ in range(3)))
        return (embeddings, self._embedding_rates, weights, np.zeros_like(weights), *room)


def _rates(optimizer: object) -> tuple[float, ...]:
    """A row of rates: the kind, and alpha, beta + alpha * l2, l1 of FTRL, or AdaGrad's rate.

    In the float32 of the tables, so that both compute with the same rates.
    """
    if isinstance(optimizer, Ftrl):
        o = optimizer
        alpha, beta, l1, l2 = (float(np.float32(x)) for x in (o.alpha, o.beta, o.l1, o.l2))
        return (FTRL, alpha, beta + alpha * l2, l1)
    assert isinstance(optimizer, AdaGrad)
    return (ADAGRAD, float(np.float32(optimizer.rate)), 0.0, 0.0)


def _embedding_rate(segments: Sequence[Segment]) -> float:
    """Of a table's embeddings; a negative one: it has none."""
    for segment in segments:
        assert isinstance(segment.optimizer, AdaGrad)
        return float(np.float32(segment.optimizer.rate))
    return -1.0


def _by_row(batch: Batch, place: Mapping[int, int]) -> tuple[npt.NDArray[Any], ...]:
    """`Batch.by_row` as the kernels take it: starts, ends, keys, values, and the number of the slot
    among those with embeddings (`embedded_slots`; -1: it has none).
    """
    rows = batch.by_row
    assert rows is not None
    slot_of = rows.slot
    if place:
        numbers = np.array([place.get(slot, -1) for slot in range(max(place) + 2)], np.int32)
        # slots after the last that has some are cut to a -1; between rows there may be any number
        slot_of = np.take(numbers, slot_of, mode="clip")
    return rows.starts, rows.ends, rows.key, rows.value, slot_of
