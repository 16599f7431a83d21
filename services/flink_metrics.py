"""What Flink is told so that Prometheus can read the metrics of our jobs under stable names.

The reporter comes with Flink. It listens on all interfaces, and has no option for the address.
"""

from __future__ import annotations

from pathlib import Path

from services.flink_home import flink_home

#: Labels that are other ones after each start, restart or move of a job, or say what others say.
#: A series that ended with each of them could not be followed over a restart.
UNSTABLE_LABELS = (
    *("job_id", "task_id", "operator_id", "task_attempt_id", "task_attempt_num"),
    *("tm_id", "host"),
)
_REPORTER = "metrics.reporter.prometheus"
PORT = f"{_REPORTER}.port"


def settings(port: int) -> dict[str, str]:
    """Flink's options for a reporter on a port (on all interfaces)."""
    return {
        f"{_REPORTER}.factory.class": "org.apache.flink.metrics.prometheus."
        "PrometheusReporterFactory",
        PORT: str(port),
        f"{_REPORTER}.scope.variables.excludes": ";".join(UNSTABLE_LABELS),
        # names of operators and jobs as they are, and not with "_" for each other character
        f"{_REPORTER}.filterLabelValueCharacters": "false",
    }


def reporter_jar() -> Path:
    """The reporter in the wheel of Flink: a plugin on a cluster, on the class path of a local run.

    Raises:
        FileNotFoundError: if the wheel is not installed, or does not hold it.
    """
    home = flink_home()
    for jar in (home / "plugins" / "metrics-prometheus").glob("*.jar"):
        return jar
    raise FileNotFoundError(f"no Prometheus reporter in {home / 'plugins'}; run `make setup`")
