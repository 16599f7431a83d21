"""What operators run when they open Python: a host that is gone after a restart leaves memory."""

from __future__ import annotations

import gc
import pickle
import weakref
from collections.abc import Iterator

import pytest

from udfs.operators.hosting import opened


class Cyclic:
    """A host that refers to itself, as caches and closures may."""

    def open(self) -> None:
        """Only the collector of cycles can free it from now on."""
        self.itself = self


@pytest.fixture
def _collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.usefixtures("_collector")
def test_a_host_that_is_gone_does_not_stay_in_memory() -> None:
    pickled = pickle.dumps(Cyclic())
    host = opened(pickled)
    first = weakref.ref(host)
    del host
    gc.collect()
    assert first() is not None, "nothing was frozen"
    opened(pickled)
    assert first() is None
