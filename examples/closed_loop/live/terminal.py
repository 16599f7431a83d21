"""The live view: one table that is drawn again each second, or a line now and then."""

from __future__ import annotations

from datetime import datetime, timezone

from rich.table import Table

from examples.closed_loop.live.journal import Rate
from examples.closed_loop.live.readings import Reading

_NONE = "-"


def duration(ms: int | None) -> str:
    """A time in the world: `1 d 3 h`, `2 h 05 min`, `12 min`."""
    if ms is None:
        return _NONE
    minutes = round(ms / 60_000)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {rest:02} min" if hours else f"{rest} min"


def number(value: float | None, digits: int) -> str:
    """A dash for what is not known."""
    return _NONE if value is None else f"{value:,.{digits}f}"


def view(reading: Reading, phase: str, begin: int) -> Table:
    """What is known now. `begin`: of the world, epoch ms."""
    table = Table(title=f"closed loop · {phase}", title_justify="left", box=None, pad_edge=False)
    for heading in ("", "now"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_column("", style="dim")
    for name, value, note in _lines(reading, begin):
        table.add_row(name, value, note)
    return table


def line(reading: Reading, begin: int) -> str:
    """The same in one line, for a log."""
    return ", ".join(f"{name} {value}" for name, value, _ in _lines(reading, begin))


def _lines(reading: Reading, begin: int) -> list[tuple[str, str, str]]:
    at = datetime.fromtimestamp(reading.now / 1e3, timezone.utc)
    day = (reading.now - begin) / 86_400_000 if reading.now else 0.0
    return [
        ("day", f"{day:.2f}", f"{at:%Y-%m-%d %H:%M} in the world" if reading.now else ""),
        ("requests", f"{reading.requests:,}", f"{reading.requests_per_s:.0f}/s"),
        ("pending", number(reading.pending, 0), "requests that wait for their labels"),
        ("learned", f"{reading.learned:,}", f"samples, of {reading.samples:,} that were joined"),
        ("model age", duration(reading.model_age), "event time since the newest learned sample"),
        ("CTR learning", _percent(reading.learning), _clicks(reading.learning)),
        ("CTR frozen", _percent(reading.frozen), _clicks(reading.frozen)),
        ("AUC", number(reading.auc, 3), "of the last hour, predicted before it was learned"),
        ("calibration", number(reading.calibration, 3), "predicted clicks for each real one"),
        ("label completeness", _share(reading.completeness), "of the clicks on joined items"),
    ]


def _percent(rate: Rate) -> str:
    return _share(rate.ctr)


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2%}"


def _clicks(rate: Rate) -> str:
    return f"{rate.clicks:,} clicks on {rate.seen:,} seen items, last 12 h"
