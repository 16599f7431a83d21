"""What several modules of tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.trainer.processes import Trainer


@pytest.fixture
def trainers() -> Iterator[list[Trainer]]:
    """Trainers that a test has started: they are ended with it."""
    started: list[Trainer] = []
    yield started
    for trainer in started:
        trainer.end()
