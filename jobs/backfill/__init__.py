"""Hours of an output that are joined again, and replaced at once: docs/backfill.md."""
