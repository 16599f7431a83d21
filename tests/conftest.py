"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

from tests.effort import examples

# No deadline for one example: the machines are shared, and a pause of theirs is not a failure.
settings.register_profile("sample-stitch", deadline=None, max_examples=examples(100))
settings.load_profile("sample-stitch")
