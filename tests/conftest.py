"""Settings of all tests."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import settings

from tests.effort import examples

# No deadline for one example: the machines are shared, and a pause of theirs is not a failure.
settings.register_profile("sample-stitch", deadline=None, max_examples=examples(100))
settings.load_profile("sample-stitch")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files first whose tests may take longest.

    Two processes take one file after the other. A long file that begins last runs alone.
    """
    by_file = [(path, list(tests)) for path, tests in groupby(items, key=lambda item: item.path)]
    by_file.sort(key=lambda entry: -max(_allowed_seconds(item) for item in entry[1]))
    items[:] = [item for _, tests in by_file for item in tests]


def _allowed_seconds(item: pytest.Item) -> float:
    """What the test's own ``timeout`` marker allows; 0 without one."""
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker is not None and marker.args else 0.0
