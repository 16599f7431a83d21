"""How much random testing is done: some in `make test`, ten times as much in `make test-thorough`.

The environment variable TEST_EFFORT says which: "fast" (the default) or "thorough".
"""

from __future__ import annotations

import os

THOROUGH = os.environ.get("TEST_EFFORT", "fast") == "thorough"


def examples(fast: int) -> int:
    """The number of examples to draw, given the number that `make test` has time for."""
    return fast * 10 if THOROUGH else fast
