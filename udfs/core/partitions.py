"""Which partition a time belongs to: `dt` and `hr`, UTC. Pure."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import lru_cache

_HOUR_MS = 3_600_000


@lru_cache(maxsize=4096)
def _of_hour(hour: int) -> tuple[str, str]:
    moment = datetime.fromtimestamp(hour * 3600, timezone.utc)
    return moment.strftime("%Y-%m-%d"), moment.strftime("%H")


def partition(time_ms: int | None) -> tuple[str, str]:
    """The partition of a time, for example `("2023-11-14", "22")`.

    A record without a time goes to the first hour of 1970.
    """
    return _of_hour((time_ms or 0) // _HOUR_MS)
