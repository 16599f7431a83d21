"""From the model of a checkpoint to the one that is configured now, where that can be done.

Features and actions may be added and removed over a savepoint of the joining job, and slots by
whoever trains. Then training goes on: what both models have keeps its parameters, what is new
starts empty. A slot is the same if its name and its encoding are; its keys are hashes that begin
with its name, so the keys of a slot that was removed stay in the table that it shared, and are not
found any more (they go by `expire_after`, or with the table).

What cannot be gone on with is named by `Evolution.of`: another kind of model, other widths, another
kind of optimizer, or slots whose rows would have to be told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trainer.server.shard import ShardSnapshot
from trainer.spec import AdaGrad, Adam, Ftrl, ModelSpec, Segment, Slot, TableSpec
from trainer.table import admission
from trainer.table.table import Rows

Floats = npt.NDArray[np.float32]

_LARGEST = float(np.finfo(np.float32).max)


class CannotGoOnError(Exception):
    """The parameters of one model are of no use to the other; the message says why, in one line."""


@dataclass(frozen=True)
class Evolution:
    """What is different between two models; empty where nothing is.

    `added` and `removed`: slots by name; one with another encoding is in both. `new_heads` and
    `old_heads`: what is predicted now and was not, and the other way round. `sources`: for each
    table of the new model, the tables of the old one whose rows it takes.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    new_heads: tuple[str, ...]
    old_heads: tuple[str, ...]
    sources: tuple[tuple[int, ...], ...]

    @property
    def text(self) -> str:
        """For a person, one line."""
        parts = [
            f"{what}: {', '.join(names)}"
            for what, names in (
                ("new slots, which start empty", self.added),
                ("slots no longer used", self.removed),
                ("new actions, which start empty", self.new_heads),
                ("actions no longer predicted", self.old_heads),
            )
            if names
        ]
        return "; ".join(parts)

    @classmethod
    def of(cls, old: ModelSpec, new: ModelSpec) -> Evolution:
        """Raises CannotGoOnError, which lists all that stands in the way."""
        wrong = [
            f"{key} was {before}, and is {now}"
            for key, before, now in (
                ("model.type", old.kind, new.kind),
                ("model.embedding", old.embedding, new.embedding),
                ("model.hidden", list(old.hidden), list(new.hidden)),
                ("model.seed", old.seed, new.seed),
            )
            if before != now
        ]
        if old.kind != new.kind:
            # all the rest follows from it
            raise CannotGoOnError("; ".join(wrong))
        before, now = _by_name(old), _by_name(new)
        kept = [name for name in now if name in before and _alike(before[name], now[name])]
        for name in kept:
            wrong += _of_value(before[name], now[name])
        sources: list[tuple[int, ...]] = []
        for table, spec in enumerate(new.tables):
            here = [name for name in kept if now[name].table == table]
            from_ = dict.fromkeys(before[name].table for name in here)
            sources.append(tuple(from_))
            for name in here:
                wrong += _of_table(name, old.tables[before[name].table], spec)
        for table in range(len(old.tables)):
            takers = [t for t, from_ in enumerate(sources) if table in from_]
            if len(takers) > 1:
                names = [
                    next(n for n in kept if now[n].table == t and before[n].table == table)
                    for t in takers
                ]
                wrong.append(
                    f"the slots {' and '.join(names)} had the same settings, and have not now:"
                    " their rows cannot be told apart"
                )
        fewer = len(old.heads) > 1 and len(new.heads) == 1
        if old.kind != "lr" and fewer:
            wrong.append(
                f"a {old.kind} of one action has no weights of interactions, as that of several has"
            )
        if wrong:
            raise CannotGoOnError("; ".join(dict.fromkeys(wrong)))
        return cls(
            tuple(name for name in now if name not in kept),
            tuple(name for name in before if name not in kept),
            tuple(head for head in new.heads if head not in old.heads),
            tuple(head for head in old.heads if head not in new.heads),
            tuple(sources),
        )


def _by_name(spec: ModelSpec) -> dict[str, Slot]:
    return {slot.name: slot for slot in spec.slots}


def _alike(old: Slot, new: Slot) -> bool:
    """Whether the keys of one are those of the other."""
    return old.encoding == new.encoding and old.boundaries == new.boundaries


def _of_value(old: Slot, new: Slot) -> list[str]:
    if old.encoding != "value":
        return []
    return [
        f"slots.{old.name}.{key} was {getattr(old, key)}, and is {getattr(new, key)}"
        for key in ("log1p", "scale", "clip")
        if getattr(old, key) != getattr(new, key)
    ]


def _of_table(slot: str, old: TableSpec, new: TableSpec) -> list[str]:
    """What keeps a slot's rows from going from one table to the other."""
    if len(old.segments) != len(new.segments):
        return [f"slot {slot} has another number of parts"]
    wrong = []
    for before, now in zip(old.segments, new.segments, strict=True):
        if type(before.optimizer) is not type(now.optimizer):
            wrong.append(
                f"the {before.name} optimizer of slot {slot} was {_about(before.optimizer)}, and"
                f" is {_about(now.optimizer)}"
            )
        if before.scale != now.scale:
            wrong.append(f"model.scale was {before.scale}, and is {now.scale}")
    return wrong


def _about(optimizer: Any) -> str:
    values = ", ".join(f"{n} = {getattr(optimizer, n):g}" for n in optimizer.__struct_fields__)
    return f"{optimizer.__struct_config__.tag} ({values})"


# -- parameters ------------------------------------------------------------------------------------


def evolved(shards: Sequence[ShardSnapshot], old: ModelSpec, new: ModelSpec) -> list[ShardSnapshot]:
    """The parts of the old model as parts of the new one. Raises CannotGoOnError."""
    evolution = Evolution.of(old, new)
    if msgspec.structs.replace(old, base=new.base) == new:
        return list(shards)
    return [_evolved(parts, evolution, old, new) for parts in shards]


def _evolved(
    parts: ShardSnapshot, evolution: Evolution, old: ModelSpec, new: ModelSpec
) -> ShardSnapshot:
    tables, removed, sketches = [], [], []
    for spec, sources in zip(new.tables, evolution.sources, strict=True):
        states = []
        for n, segment in enumerate(spec.segments):
            pieces = [
                _columns(
                    _of_rates(parts.tables[t].states[n], old.tables[t].segments[n], segment),
                    *(segment, old.heads, new.heads),
                )
                for t in sources
            ]
            empty = np.zeros((0, _floats(segment)), np.float32)
            states.append(np.concatenate([empty, *pieces]))
        of = [parts.tables[t] for t in sources]
        tables.append(
            Rows(
                np.concatenate([np.zeros(0, np.uint64), *(rows.keys for rows in of)]),
                np.concatenate([np.zeros(0, np.uint32), *(rows.touched for rows in of)]),
                np.concatenate([np.zeros(0, np.uint8), *(rows.dirty for rows in of)]),
                states,
            )
        )
        removed.append(
            np.concatenate([np.zeros(0, np.uint64), *(parts.removed[t] for t in sources)])
        )
        counted = [s for t in sources if (s := parts.sketches[t]) is not None]
        sketch = None
        if spec.admit_after > 1 and counted:
            sketch = counted[0]
            for other in counted[1:]:
                sketch = admission.merged(sketch, other)
        sketches.append(sketch)
    return replace(
        parts,
        tables=tables,
        removed=removed,
        sketches=sketches,
        dense=_dense(parts.dense, old, new),
    )


def _groups(segment: Segment) -> tuple[list[float], int]:
    """A state is so many arrays of the segment's width, and single numbers behind them.

    What a new head has in each array, and how many single numbers there are. The layout is that of
    `trainer.table.optimizers`.
    """
    optimizer = segment.optimizer
    if isinstance(optimizer, Ftrl):
        return [0.0, 0.0], 0  # z, n
    if isinstance(optimizer, AdaGrad):
        return [0.0, optimizer.initial], 0  # value, n
    assert isinstance(optimizer, Adam)
    return [0.0, 0.0, 0.0], 1  # value, m, v, and the row's steps


def _floats(segment: Segment) -> int:
    starts, singles = _groups(segment)
    return len(starts) * segment.width + singles


def _of_rates(state: Floats, old: Segment, new: Segment) -> Floats:
    """The same values under other rates of the same optimizer.

    AdaGrad and Adam keep the values themselves. FTRL keeps z, and the value follows from it, n and
    the rates: so z becomes what gives the value under the new ones.
    """
    was, now = old.optimizer, new.optimizer
    if was == now or not isinstance(was, Ftrl) or not isinstance(now, Ftrl):
        return state
    out = state.astype(np.float64)
    z, n = out[:, : old.width], out[:, old.width :]
    rest = np.maximum(np.abs(z) - was.l1, 0.0)
    below = (was.beta + np.sqrt(n)) / was.alpha + was.l2
    size = np.divide(rest, below, out=np.zeros_like(rest), where=below > 0)
    moved = size * ((now.beta + np.sqrt(n)) / now.alpha + now.l2) + now.l1
    z[:] = np.where(size > 0, np.sign(z) * moved, np.clip(z, -now.l1, now.l1))
    return np.clip(out, -_LARGEST, _LARGEST).astype(np.float32)


def _columns(state: Floats, segment: Segment, old: Sequence[str], new: Sequence[str]) -> Floats:
    """The state of a segment; of the linear weights, which have a column per head, by head."""
    if segment.name != "linear" or tuple(old) == tuple(new):
        return state
    starts, singles = _groups(segment)
    out = np.zeros((len(state), _floats(segment)), np.float32)
    for group, start in enumerate(starts):
        for column, head in enumerate(new):
            values: Any = np.float32(start)
            if head in old:
                values = state[:, group * len(old) + list(old).index(head)]
            out[:, group * len(new) + column] = values
    if singles:
        out[:, -singles:] = state[:, -singles:]
    return out


def _dense(arrays: Sequence[Any], old: ModelSpec, new: ModelSpec) -> list[Any]:
    """The dense vector, and every array of its optimizer's state that is as long."""
    if not arrays:
        return []
    # JAX takes seconds to import, and a logistic regression needs none of it
    from trainer.models.network import dense_layout, initial_dense

    flatten, unflatten = dense_layout(new)[0], dense_layout(old)[1]
    fresh = initial_dense(new)
    place = dense_layout(new)[1]
    length = len(arrays[0])
    move = _mover(old, new)
    out = []
    for n, array in enumerate(arrays):
        if np.shape(array) != (length,):
            out.append(np.asarray(array))  # how many steps there were
            continue
        start = fresh if n == 0 else np.zeros_like(fresh)
        out.append(flatten(move(unflatten(array), place(start))))
    return out


def _mover(old: ModelSpec, new: ModelSpec) -> Callable[[Any, Any], Any]:
    """Copies what both models have from a tree of the old one into one of the new."""
    from trainer.models.network import embedded_slots

    heads = [(old.heads.index(h), n) for n, h in enumerate(new.heads) if h in old.heads]
    was = {old.slots[slot].name: n for slot, n in embedded_slots(old).items()}
    inputs = [(was.get(new.slots[slot].name, -1), n) for slot, n in embedded_slots(new).items()]
    width = new.embedding

    def move(source: Any, target: Any) -> Any:
        if "interaction" in target and "interaction" in source:
            for a, b in heads:
                target["interaction"][:, b] = source["interaction"][:, a]
        layers = target.get("layers", [])
        for n, layer in enumerate(layers):
            before = source["layers"][n]
            last = n + 1 == len(layers)
            if not last and n > 0:
                layer["weights"][:], layer["bias"][:] = before["weights"], before["bias"]
                continue
            columns = heads if last else [(c, c) for c in range(layer["weights"].shape[1])]
            rows = [(r, r) for r in range(layer["weights"].shape[0])]
            if n == 0:
                rows = []
                for a, b in inputs:
                    if a >= 0:
                        rows += [(a * width + i, b * width + i) for i in range(width)]
                    else:
                        # a new slot changes no prediction before something was learned of it
                        layer["weights"][b * width : (b + 1) * width] = 0
            at_old, at_new = _pairs(rows)
            for a, b in columns:
                layer["weights"][at_new, b] = before["weights"][at_old, a]
                layer["bias"][b] = before["bias"][a]
        return target

    return move


def _pairs(rows: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [a for a, _ in rows], [b for _, b in rows]
