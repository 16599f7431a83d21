"""The line of the log that says, from time to time, how a run is doing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timezone

from trainer.run.session import Session

_log = logging.getLogger(__name__)
_YEAR_10000 = 253_402_300_800_000
_SUMS = ("evaluated_samples", "log_loss_nats", "predictions", "positives")


class Status:
    """Logs how a session is doing. `clock`: seconds, for the rates between two lines."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before = clock(), 0.0
        self._sums: dict[str, tuple[float, ...]] = {}

    def report(self, session: Session) -> None:
        """Log one line. Rates, log loss and calibration are of the time since the line before."""
        value = session.instruments.value
        now, samples = self._clock(), value("samples_total")
        seconds = now - self._before[0]
        rate = (samples - self._before[1]) / seconds if seconds > 0 else 0.0
        self._before = now, samples
        fields: dict[str, object] = {
            "event": "status",
            "samples": session.rows,
            "samples_per_second": round(rate, 1),
            "pending_samples": int(value("pending_samples")),
            "lag_seconds": round(value("lag_seconds"), 1),
            "newest_sample": moment(session.newest) if session.newest else None,
            "keys": int(value("keys")),
            "parameter_bytes": int(value("parameter_bytes")),
            "checkpoint_age_seconds": round(value("checkpoint_age_seconds"), 1),
            "log_loss": {},
            "calibration": {},
        }
        parts = [
            f"{session.rows:,} samples, {rate:,.0f}/s",
            f"{fields['pending_samples']:,} to learn, lag {_seconds(value('lag_seconds'))}",
            f"newest {fields['newest_sample'] or '-'}",
            f"{fields['keys']:,} keys",
            f"unsaved for {_seconds(value('checkpoint_age_seconds'))}",
        ]
        losses: dict[str, float] = {}
        calibrations: dict[str, float] = {}
        for action in session.runner.job.layout.actions:
            sums = tuple(value(f"{name}_total", action=action) for name in _SUMS)
            before = self._sums.get(action, (0.0,) * len(_SUMS))
            self._sums[action] = sums
            weight, loss, predicted, positive = (a - b for a, b in zip(sums, before, strict=True))
            text = action
            if weight > 0:
                losses[action] = loss / weight
                text += f" log loss {losses[action]:.4f}"
            if positive > 0:
                calibrations[action] = predicted / positive
                text += f" calibration {calibrations[action]:.3f}"
            if weight > 0:
                parts.append(text)
        fields |= {"log_loss": losses, "calibration": calibrations}
        _log.info("; ".join(parts), extra={"fields": fields})


def moment(epoch_ms: int) -> str:
    """A time of an event, in UTC."""
    if not 0 <= epoch_ms < _YEAR_10000:
        return f"{epoch_ms} ms"  # accepted, and no time that a calendar has
    return datetime.fromtimestamp(epoch_ms / 1e3, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
