"""Predictions from what the trainer exports, equal to the trainer's own.

model = ServedModel.open(Path("model/serving"))
model.refresh()                      # now and then: takes the newest export, if there is one
p = model.predict(candidates)        # (rows, actions)
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pyarrow as pa

from configuration.stores import Folder
from trainer.features.batch import Floats
from trainer.features.encode import Encoder
from trainer.models import bags
from trainer.models.network import Network, padded
from trainer.serving.snapshot import Snapshot, View
from trainer.spec import ModelSpec
from trainer.table.table import Table


class ServedModel:
    """A model as of one export. `predict` may be called while another thread refreshes."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.spec: ModelSpec = snapshot.spec
        self._encoder = Encoder(self.spec)
        # what keys begin with that the trainer has no rows for
        self._starts = [Table(table, self.spec.seed, capacity=1) for table in self.spec.tables]
        self._logits: Any = jax.jit(Network(self.spec).logits)

    @classmethod
    def open(cls, root: Folder) -> ServedModel:
        """The newest export under `root`. Raises ServingError."""
        return cls(Snapshot.open(root))

    @property
    def actions(self) -> tuple[str, ...]:
        """What is predicted, in the order of the columns."""
        return tuple(head for head in self.spec.heads if ":" not in head)

    @property
    def columns(self) -> list[str]:
        """What `predict` needs in a table."""
        return self._encoder.columns

    @property
    def version(self) -> tuple[str, int]:
        """The run's id and the number of the export."""
        return self._snapshot.run_id, self._snapshot.number

    def refresh(self) -> bool:
        """Takes newer exports; whether there were any. Raises ServingError, and changes nothing."""
        return self._snapshot.refresh()

    @property
    def view(self) -> View:
        """The parameters of the newest export that was taken. A refresh leaves them as they are."""
        return self._snapshot.view

    def predict(self, candidates: pa.Table, view: View | None = None) -> Floats:
        """The probability of each action for each row, (rows, actions).

        `view`: one of this model's, so that the caller knows which export has predicted; the newest
        when absent. Raises KeyError for a column that is missing.
        """
        view = self.view if view is None else view
        batch = self._encoder.candidates(candidates.select(self.columns))
        values = [self._values(view, n, bag.keys) for n, bag in enumerate(batch.tables)]
        linear, pooled = bags.sums(self.spec, batch, values, padded(batch.rows))
        logits = np.asarray(self._logits(linear, pooled, view.dense))
        made = logits[: batch.rows, : len(self.actions)]
        with np.errstate(over="ignore"):  # of a very negative logit: the probability is 0 then
            return np.asarray(1.0 / (1.0 + np.exp(-made)), np.float32)

    def _values(self, view: View, table: int, keys: Any) -> Floats:
        values, found = view.lookup(self.spec.tables[table].name, keys)
        missing = np.flatnonzero(~found)
        if len(missing):
            values[missing] = self._starts[table].pull(keys[missing])[0]
        return values
