"""What a batch of Python hands to the JVM beside its main output (udfs/jvm/Reports.java). Pure."""

from __future__ import annotations

from collections import Counter
from typing import Any

#: Packed as `[counts: [name, by], warnings: [topic, message], side rows: [side output, row]]`.
PackedReports = tuple[list[tuple[str, int]], list[tuple[str, str]], list[tuple[int, list[Any]]]]


#: What the values behind the names of counters are: labels of the metric.
LABELS = {
    "rejected": ("stream", "reason"),
    "unusable": ("stream", "reason"),
    "rows": ("kind",),
    "positives": ("action",),
}


class Reports:
    """Counts, warnings and side rows of one batch.

    `counts`: by how much counters grow. Behind the name of a counter come the values of its labels
    (`LABELS`), with slashes between them.
    `warnings`: topic and message, for the logger `sample_stitch.<topic>`. `side`: rows, each with
    the index of its side output.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.warnings: list[tuple[str, str]] = []
        self.side: list[tuple[int, list[Any]]] = []

    def taken(self) -> PackedReports:
        """All that there is, in the form that is packed; nothing is left."""
        counts = [(name, by) for name, by in self.counts.items() if by]
        taken = counts, self.warnings, self.side
        self.counts, self.warnings, self.side = Counter(), [], []
        return taken
