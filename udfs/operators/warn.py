"""Warnings of a Python operator, in the log of the task manager."""

from __future__ import annotations

import logging


def warn(topic: str, message: str) -> None:
    """Log `message` as the logger `sample_stitch.<topic>`.

    In thread mode Python lives in the JVM, whose log is the one that is kept; Python's own would go
    nowhere. In process mode Flink brings Python's log there.
    """
    name = f"sample_stitch.{topic}"
    try:
        from pemja import findClass

        # Not `warn(message)`: pemja may take `warn(String, Object...)` for it, and calls that
        # without an array. With two arguments there is one method that fits.
        findClass("org.slf4j.LoggerFactory").getLogger(name).warn("{}", message)
    except (ImportError, AttributeError, RuntimeError):
        # A warning must never end the job.
        logging.getLogger(name).warning(message)
