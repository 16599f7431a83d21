"""The newest model, kept in memory while the trainer exports others.

A thread looks for exports. What it finds is put in place of the old model at once and as a whole: a
request takes one `Served` and is scored by that. What cannot be used changes nothing.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from configuration.stores import Folder, StorePath
from schemas.features import FeatureSchema
from trainer.config.columns import OWN_COLUMNS
from trainer.serving.format import Manifest, NothingPublishedError, SpecError
from trainer.serving.model import ServedModel
from trainer.serving.snapshot import View

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]


class UnusableModelError(Exception):
    """A model that cannot score the candidates of this pipeline; the message says why."""


@dataclass(frozen=True)
class Served:
    """A model at one export."""

    model: ServedModel
    view: View
    weights: Floats
    columns: Mapping[str, pa.DataType]

    @property
    def manifest(self) -> Manifest:
        """What the export says of itself."""
        return self.view.manifest

    def scores(
        self,
        user_id: str,
        context: Mapping[str, Any],
        items: Sequence[tuple[str, Mapping[str, Any]]],
    ) -> Floats:
        """The score of each item, (items,): the weighted sum of the predicted actions.

        All items are scored as if they were shown first, so that the place does not count.
        """
        rows = len(items)
        columns = []
        values: list[Any]
        for name, type_ in self.columns.items():
            if name == "item_id":
                values = [item for item, _ in items]
            elif name == "user_id":
                values = [user_id] * rows
            elif name == "position":
                values = [0] * rows
            elif name in context:
                values = [context[name]] * rows
            else:
                values = [features.get(name) for _, features in items]
            columns.append(_column(values, type_))
        table = pa.Table.from_arrays(columns, names=list(self.columns))
        predicted = self.model.predict(table, self.view)
        return np.asarray(predicted.astype(np.float64) @ self.weights)


def _exported(root: Folder) -> Any:
    """What identifies all that is exported: names, sizes, times and places of the files."""
    try:
        if isinstance(root, StorePath):
            return sorted((name, of.st_size, of.st_mtime_ns, of.tag) for name, of in root.walk())
        found = []
        for path in (root, *(entry for entry in root.iterdir() if entry.is_dir())):
            for entry in os.scandir(path):
                about = entry.stat()
                found.append((entry.path, about.st_size, about.st_mtime_ns, about.st_ino))
    except OSError as error:
        return str(error)
    return sorted(found)


def _column(values: list[Any], type_: pa.DataType) -> pa.Array:
    """Raises what pyarrow raises for a value that is not of the type."""
    try:
        return pa.array(values, type_)
    except (OverflowError, pa.ArrowInvalid):
        if not pa.types.is_floating(type_):
            raise
        # JSON has one kind of number, and pyarrow takes integers of 53 bits only
        return pa.array([float(v) if type(v) is int else v for v in values], type_)


class ModelKeeper:
    """`served`: the newest usable model, or None. `why_none`: why there is none.

    `refreshes`, `failures`: how many exports were taken, and how often one could not be.
    """

    def __init__(
        self,
        root: Folder,
        value: Mapping[str, float],
        schema: FeatureSchema,
        every_s: float,
        *,
        max_candidates: int,
    ) -> None:
        """Looks once, at once.

        Args:
            root: where the trainer exports to (`serving/`).
            value: what a predicted action is worth.
            schema: the features that candidates have.
            every_s: how often `start` looks.
            max_candidates: a model is tried with up to so many before it serves.
        """
        self._root, self._value, self._every_s = root, value, every_s
        self._max_candidates = max_candidates
        types = {name: type_.arrow for name, type_ in OWN_COLUMNS.items()}
        self._types = types | {feature.name: feature.type.arrow for feature in schema.features}
        self.served: Served | None = None
        self.why_none = "no model yet"
        self.refreshes = self.failures = 0
        self._said = ""
        #: Whether the last look failed, and what there was then (`_exported`).
        self._failed = False
        self._bad: Any = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)
        self.look()

    def start(self) -> None:
        """Look again and again, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. An export that is being read is not waited for."""
        self._stop.set()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.look()

    def look(self) -> bool:
        """Takes a newer export, if there is one that can be used; returns whether it did."""
        # only after a failure, because in an object store it is a request
        there = _exported(self._root) if self._failed else None
        if there is not None and there == self._bad:
            # to find it out once more, all of it would have to be read
            self.failures += 1
            return False
        try:
            found = self._found()
        except NothingPublishedError:
            return False
        except Exception as error:
            # an error of the disk may pass while the files stay as they are
            self._bad = None if isinstance(error, OSError | MemoryError) else there
            self._failed = True
            # Whatever is wrong with an export, the old one serves, and a later one may be good.
            self.failures += 1
            if self.served is None:
                self.why_none = "no usable model"
            self._say_once(f"the newest export cannot be used: {error}")
            return False
        if found is None:
            return False
        self.served = found
        self.refreshes += 1
        self._said, self._bad, self._failed = "", None, False
        return True

    def _found(self) -> Served | None:
        if self.served is not None:
            model = self.served.model
            try:
                if not model.refresh():
                    return None
            except SpecError:
                pass  # another model: opened anew
            else:
                return self._usable(model, self.served)
        return self._usable(ServedModel.open(self._root), None)

    def _usable(self, model: ServedModel, known: Served | None) -> Served:
        if known is not None:
            return Served(model, model.view, known.weights, known.columns)
        lacking = [action for action in self._value if action not in model.actions]
        if lacking:
            raise UnusableModelError(f"the model does not predict {', '.join(lacking)}")
        unknown = [name for name in model.columns if name not in self._types]
        if unknown:
            raise UnusableModelError(
                f"the model needs {', '.join(unknown)}, which the pipeline does not declare"
            )
        weights = np.array([self._value.get(action, 0.0) for action in model.actions])
        served = Served(
            model, model.view, weights, {name: self._types[name] for name in model.columns}
        )
        # JAX compiles for each power of two, and users need not wait for that.
        for doublings in range((self._max_candidates - 1).bit_length() + 1):
            served.scores("", {}, [("", {})] * (1 << doublings))
        return served

    def _say_once(self, text: str) -> None:
        if text != self._said:
            self._said = text
            log.warning(text)
