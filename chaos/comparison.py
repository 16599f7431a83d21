"""What a reader sees of the output, held against what must be there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chaos.load import CLOSER, RULES, Story
from chaos.result import Difference
from tests import oracle
from tests.e2e.outcomes import outcome_of, written
from tests.timeline import Outcome, Timeline

TABLES = ("samples", "late_actions", "rejected")


@dataclass
class Comparison:
    """Reads each visible file once, and notices when one of them changes or disappears."""

    output: Path
    _files: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _found: Counter[str] = field(default_factory=Counter)
    _true: Counter[str] = field(default_factory=Counter)
    _decided: Counter[str] = field(default_factory=Counter)
    _waiting: list[tuple[int, list[str]]] = field(default_factory=list)
    _known_stories: int = 0

    def compare(self, stories: list[Story], decided_by: int) -> Difference:
        """All rows that are visible must be true, each once; none may be missing of the stories
        that are decided by that event time (ms).
        """
        # first the files: a story that begins afterwards cannot be in them
        stray = self._read_new_files()
        self._learn(stories)
        self._decide(decided_by)
        missing = self._decided - self._found
        return Difference(
            compared=sum(self._found.values()),
            missing=tuple(sorted(missing.elements())),
            wrong_or_twice=tuple(sorted((self._found - self._true).elements())),
            stray=tuple(stray),
        )

    def compare_everything(self, stories: list[Story]) -> Difference:
        """The whole output, as a reader opens it who has seen nothing of it before."""
        self._learn(stories)
        found = Counter(_lines(_without_closers(written(self.output, RULES))))
        return Difference(
            compared=sum(found.values()),
            missing=tuple(sorted((self._true - found).elements())),
            wrong_or_twice=tuple(sorted((found - self._true).elements())),
        )

    def _learn(self, stories: list[Story]) -> None:
        for story in stories[self._known_stories :]:
            lines = due(story)
            self._true.update(lines)
            self._waiting.append((story.decided_at, lines))
        self._known_stories = len(stories)

    def _decide(self, by: int) -> None:
        waiting = []
        for at, lines in self._waiting:
            if at <= by:
                self._decided.update(lines)
            else:
                waiting.append((at, lines))
        self._waiting = waiting

    def _read_new_files(self) -> list[str]:
        """Adds the rows of new files to what was found; what is wrong with files as such."""
        seen = {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in self._visible()}
        stray = [f"{path} is gone or has changed" for path in _lost(self._files, seen)]
        for table in TABLES:
            rows: list[dict[str, Any]] = []
            for path in sorted(seen.keys() - self._files.keys()):
                if path.relative_to(self.output).parts[0] == table:
                    if path.suffix != ".parquet":
                        stray.append(f"{path} is not Parquet, and no reader passes over it")
                        continue
                    try:
                        rows += pq.read_table(path, partitioning=None).to_pylist()
                    except pa.ArrowInvalid as error:
                        stray.append(f"{path} cannot be read: {error}")
            tables = {name: rows if name == table else [] for name in TABLES}
            outcome = outcome_of(*tables.values(), rules=RULES)
            self._found.update(_lines(_without_closers(outcome)))
        self._files |= seen
        return stray

    def _visible(self) -> Iterator[Path]:
        """Files that a reader takes: neither they nor a folder above begins with `.` or `_`."""
        for table in TABLES:
            for path in (self.output / table).rglob("*"):
                parts = path.relative_to(self.output).parts
                if path.is_file() and not any(part.startswith((".", "_")) for part in parts):
                    yield path


def due(story: Story) -> list[str]:
    """What must become of a story."""
    far = story.decided_at + RULES.remembered
    return _lines(oracle.expected(Timeline(story.events, far), RULES))


def _lines(outcome: Outcome) -> list[str]:
    return replace(outcome.without_made_at(), counters={}).lines()


def _without_closers(outcome: Outcome) -> Outcome:
    rows = (row for row in outcome.rows if not row.request_id.startswith(CLOSER))
    late = (late for late in outcome.late if not late.sample[0].startswith(CLOSER))
    return replace(outcome, rows=tuple(rows), late=tuple(late))


def _lost(before: dict[Path, tuple[int, int]], now: dict[Path, tuple[int, int]]) -> Iterable[Path]:
    return (path for path, size in before.items() if now.get(path) != size)
