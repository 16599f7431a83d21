"""What a batch does to the parameters: one step of each key, or one for each sample that has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trainer.features.batch import Batch, Floats
from trainer.server.shard import Pulled


@dataclass
class Learned:
    """What came of a batch.

    `logits`: those of the actions, and `counted`, how much each row counts in the metrics, float32
    (rows, actions). `pushed`: for each table gradients or changes, as `Parameters.push` takes them.
    `dense`: the gradient of the dense vector. `refused`: how many rows had no finite prediction or
    gradient.
    """

    logits: Floats
    counted: Floats
    pushed: Sequence[Floats]
    dense: Floats | None
    refused: int


class Steps(Protocol):
    """Learns a batch from what was pulled for it."""

    #: Whether states of optimizers are pulled and their changes pushed, or values and gradients.
    states: bool

    def learn(self, batch: Batch, pulled: Pulled) -> Learned:
        """Predict each row, and learn from it."""
