"""Hours as people write them, `2026-11-01T00` (UTC), and as epoch ms."""

from __future__ import annotations

from datetime import datetime, timezone

from jobs.backfill.margins import HOUR_MS
from jobs.pipeline.config import ConfigError, hour_ms


def read(text: str, option: str) -> int:
    """Epoch ms of an hour. Raises ConfigError, which names the option."""
    try:
        return hour_ms(text)
    except ValueError:
        raise ConfigError(
            f"{option}: expected an hour like 2026-11-01T00 (UTC), found {text!r}"
        ) from None


def text(hour: int) -> str:
    """The other way, of epoch ms that a whole hour begins with."""
    return datetime.fromtimestamp(hour / 1000, timezone.utc).strftime("%Y-%m-%dT%H")


def between(first: int, end: int) -> list[str]:
    """The hours of a period; its end is not in it."""
    return [text(hour) for hour in range(first, end, HOUR_MS)]
