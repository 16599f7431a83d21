"""Sources over a snapshot: which of those that it has positions of the job still reads.

A source that is new begins at its `start`. The position of one that is gone has no place in the
job, and Flink refuses to drop state without being told to. Here that is one line, before the job
runs.
"""

from __future__ import annotations

from collections.abc import Iterable

from jobs.pipeline.config import ConfigError
from jobs.pipeline.source_sections import SourcesSection
from schemas.events import STREAMS

#: Flink's option, which `flink run --allowNonRestoredState` sets, too.
IGNORE_UNCLAIMED_STATE = "execution.state-recovery.ignore-unclaimed-state"
_BEFORE, _AFTER = "Source: ", " source"


def check(
    operators: Iterable[str], sources: SourcesSection, asked: str, *, may_drop: bool
) -> list[str]:
    """Notes on positions that are dropped, a line each.

    Args:
        operators: the names of those that the snapshot has state of (`restore.operators`).
        sources: those of the configuration.
        asked: the option that asks for the restore, for a person.
        may_drop: whether `IGNORE_UNCLAIMED_STATE` is set.

    Raises:
        ConfigError: if a position would be lost unasked, or none fits.
    """
    before = {
        name.removeprefix(_BEFORE).removesuffix(_AFTER)
        for name in operators
        if name.startswith(_BEFORE) and name.endswith(_AFTER)
    }
    before = {name for name in before if name.partition("-")[0] in STREAMS}
    if sources.are_named and before and before <= {*STREAMS}:
        raise ConfigError(
            f"{asked}: the snapshot is of a job with one source a stream, and the sources have "
            "names now, so its positions do not fit. Stop that job with drain (docs/operations.md, "
            '"Upgrade"), and start this one with --append'
        )
    lost = sorted(before - {named.id for named in sources.each})
    keys = ", ".join("sources." + name.replace("-", ".", 1) for name in lost)
    if lost and not may_drop:
        raise ConfigError(
            f"{asked}: the snapshot has a position in {keys}, which the configuration does not "
            "have. Put it back under that name (under another one it would be read again from its "
            f"start); or, to drop the position, add --set flink.{IGNORE_UNCLAIMED_STATE}=true to "
            "this one start (with flink run: --allowNonRestoredState)"
        )
    return [f"the position in {keys} is dropped"] if lost else []
