"""The trainer's model in this process: learns rows, and scores candidates.

Encoder, loss, optimizer and base rates are the trainer's own. What it has not learned yet, it does
not know: there is no model until `FIRST_ROWS` rows were seen, as a new run of the trainer waits for
its first samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import msgspec
import numpy as np
import pyarrow as pa

from examples.closed_loop.events import Request
from trainer.config import TrainerConfig
from trainer.features.batch import Floats
from trainer.features.encode import Encoder
from trainer.losses.base_rate import starting_logits
from trainer.losses.targets import targets
from trainer.models import bags
from trainer.models.network import Network, padded
from trainer.run.job import layout_of, rules_of
from trainer.run.learner import Learner
from trainer.server.parameters import LocalParameters
from trainer.server.shard import Shard
from trainer.spec import ModelSpec

#: So many rows give the base rates that a new model starts with.
FIRST_ROWS = 500


class Model:
    """A model that learns. `columns`: those that it needs of a table of rows."""

    def __init__(self, config: TrainerConfig) -> None:
        self._config, self._rules = config, rules_of(config)
        self._encoder = Encoder(config.spec)
        needed = ["event_time", *self._rules.columns, *self._encoder.columns]
        self.columns = list(dict.fromkeys(needed))
        self._first: list[pa.Table] = []
        self._spec: ModelSpec | None = None
        self._learner: Learner | None = None
        self._parameters: LocalParameters | None = None
        self._sequence = 0
        #: Rows that were learned.
        self.rows = 0

    def learn(self, table: pa.Table) -> None:
        """Learn the rows of a table, in their order, in batches of `train.batch`."""
        if self._learner is None:
            self._first.append(table)
            if sum(t.num_rows for t in self._first) < FIRST_ROWS:
                return
            table, self._first = pa.concat_tables(self._first), []
            self._begin(table)
        assert self._learner is not None
        assert self._parameters is not None
        chunk, size = (
            self._encoder.chunk(table, targets(table, self._rules)),
            self._config.train.batch,
        )
        by_row = self._config.steps == "sample"
        for start in range(0, chunk.rows, size):
            batch = chunk.batch(start, min(size, chunk.rows - start), by_row=by_row)
            self._learner.learn(batch, self._parameters, self._sequence, 0)
            self._sequence += 1
        self.rows += chunk.rows

    def scorer(self) -> Scorer | None:
        """What scores with the parameters as they are now; None before there is a model."""
        if self._spec is None or self._parameters is None:
            return None
        return Scorer(self._spec, self._parameters.shard)

    def frozen(self) -> Scorer | None:
        """The same, of a copy that learns nothing more."""
        if self._spec is None or self._parameters is None:
            return None
        copy = Shard(self._spec, contributions=None, has_dense=True)
        copy.load(self._parameters.shard.snapshot())
        return Scorer(self._spec, copy)

    def _begin(self, table: pa.Table) -> None:
        found = starting_logits(self._rules, [targets(table, self._rules)])
        # Rounded, so that the runs of a sweep share what JAX compiles; the bias learns the rest.
        base = tuple(round(2 * logit) / 2 for logit in found)
        self._spec = spec = msgspec.structs.replace(self._config.spec, base=base)
        layout = layout_of(self._config, spec)
        layout = msgspec.structs.replace(layout, columns=())
        rows, steps = self._config.train.batch, self._config.steps
        self._learner = Learner(spec, self._rules, layout, rows, steps)
        self._parameters = LocalParameters(Shard(spec, contributions=None, has_dense=True))


class Scorer:
    """Scores the candidates of requests by one state of a model."""

    def __init__(self, spec: ModelSpec, shard: Shard) -> None:
        self._spec, self._shard = spec, shard
        self._encoder = Encoder(spec)
        self._logits: Any = jax.jit(Network(spec).logits) if spec.kind != "lr" else None

    def score(self, requests: Sequence[Request]) -> Floats:
        """The probability of the first action for each candidate of each request, in their order.

        float32 (candidates of all requests,).
        """
        table = candidate_table(requests, self._encoder.columns)
        rows = table.num_rows
        batch = self._encoder.candidates(table)
        pulled = self._shard.pull(0, [bag.keys for bag in batch.tables], dense=True)
        values = [of_table for of_table, _ in pulled.tables]
        if self._logits is None:
            # a sum and the base rate: compiling that for every number of rows would cost more
            linear, _ = bags.sums(self._spec, batch, values, rows)
            logits = linear[:, 0] + np.float32(self._spec.base[0] if self._spec.base else 0.0)
        else:
            linear, pooled = bags.sums(self._spec, batch, values, padded(rows))
            logits = np.asarray(self._logits(linear, pooled, pulled.dense))[:rows, 0]
        return np.asarray(1.0 / (1.0 + np.exp(-logits)), np.float32)


def candidate_table(requests: Sequence[Request], columns: Sequence[str]) -> pa.Table:
    """The columns of all candidates, a row a candidate; `position` is 0 throughout."""
    made: dict[str, list[Any]] = {}
    candidates = [c for request in requests for c in request.candidates]
    of = [request for request in requests for _ in request.candidates]
    for name in columns:
        if name == "item_id":
            made[name] = [c.item_id for c in candidates]
        elif name == "user_id":
            made[name] = [r.user_id for r in of]
        elif name == "position":
            made[name] = [0] * len(of)
        elif requests and name in requests[0].context:
            made[name] = [r.context[name] for r in of]
        else:
            made[name] = [c.features[name] for c in candidates]
    return pa.table(made)
