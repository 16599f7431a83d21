"""From an exception of Flink's to one line that says what to do."""

from __future__ import annotations

import re

from jobs.pipeline import kafka_failures

#: Patterns in the order of precedence, and the line for each; `{found}` is the text that matched.
_KNOWN: tuple[tuple[str, str], ...] = (
    *kafka_failures.KNOWN,
    (
        r"EventFileError(?:'>)?: ([^\n]+)",
        "an event file could not be read: {found}",
    ),
    (r"StateVersionError(?:'>)?: ([^\n]+)", "the savepoint is of a newer release: {found}"),
    (r"No space left on device", "the disk is full"),
    (
        r"Cannot map checkpoint/savepoint state",
        "the snapshot is of another release, or of another job: it has state of an operator that "
        "this job does not have. Go on with the release that made it; how to move to this one is "
        'in docs/operations.md, "Upgrade"',
    ),
    (
        r"Cannot find (?:checkpoint or )?savepoint|"
        r"File file:\S+ does not exist|cannot find checkpoint metadata file",
        "a file that the job or its snapshot needs is not there: {found}",
    ),
    (
        r"OutOfMemoryError",
        "out of memory: give the task managers more, or set runtime.state_backend = 'rocksdb'",
    ),
    (
        r"Answer from Java side is empty|Error while receiving|while trying to connect to the Java",
        "Flink's Java process ended: it was killed, or ran out of memory",
    ),
)
_CAUSE = re.compile(r"^\s*(?:: |Caused by: )([^\n]+)", re.MULTILINE)
#: What Flink wraps around the exception that says something.
_WRAPPING = re.compile(
    r"An error occurred while calling|Job execution failed|Could not execute|ProgramInvocation"
    r"|Recovery is suppressed|Global failure triggered|Failed to list subscribed topic partitions"
)


def explain(error: BaseException) -> str:
    """One line; the trace is for the log."""
    text = "\n".join(str(error).splitlines())
    for pattern, line in _KNOWN:
        match = re.search(pattern, text)
        if match:
            found = next((group for group in match.groups() if group), match[0])
            return line.format(found=found.strip().rstrip("."))
    return f"the job failed: {_deepest(text) or type(error).__name__}"


def _deepest(text: str) -> str:
    """The last cause in a Java trace that says more than that something failed; else its first
    line.
    """
    causes = _CAUSE.findall(text)
    told = [cause for cause in causes if not _WRAPPING.search(cause)]
    # what Py4J says of an error of its own comes after the call that it failed in
    lines = [line for line in text.strip().splitlines() if not _WRAPPING.match(line)]
    return (told or causes or lines[:1] or text.splitlines()[:1] or [""])[-1].strip()
