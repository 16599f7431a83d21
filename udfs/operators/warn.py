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

        logger = findClass("org.slf4j.LoggerFactory").getLogger(name)
    except (ImportError, AttributeError, RuntimeError):
        logging.getLogger(name).warning(message)
    else:
        logger.warn(message)
