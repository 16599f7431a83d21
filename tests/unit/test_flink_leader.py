"""Which job manager leads is read from rolling logs, of text or of JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.flink_cluster import FlinkCluster
from services.process import ProcessId

GRANTED = (
    "DefaultDispatcherRunner was granted leadership with leader id 93f2."
    " Creating new DispatcherLeaderProcess."
)
_CLASS = "org.apache.flink.runtime.dispatcher.runner.DefaultDispatcherRunner"


def text(at: str, message: str) -> str:
    return f"2026-11-26 {at},000 INFO  {_CLASS} [] - {message}\n"


def json_line(at: str, message: str) -> str:
    return f'{{"@timestamp":"2026-11-26T{at}.000Z","log.level":"INFO","message":"{message}"}}\n'


@pytest.mark.parametrize("line", [text, json_line])
def test_the_one_that_was_granted_leadership_last_leads(tmp_path: Path, line: object) -> None:
    assert callable(line)
    cluster = FlinkCluster(tmp_path, job_managers=3)
    cluster._job_managers = {f"jobmanager-{n}": ProcessId(1, 0.0) for n in (0, 1, 10)}
    cluster.log_folder.mkdir()
    assert cluster.leader() is None

    def log(name: str, *lines: str) -> None:
        path = cluster.log_folder / f"flink-{name}-host.log"
        path.write_text("".join(lines), encoding="utf-8")

    log("jobmanager-0-standalonesession-0", line("08:00:01", GRANTED), line("08:00:02", "later"))
    log("jobmanager-10-standalonesession-0", line("08:00:00", "started"))
    assert cluster.leader() == "jobmanager-0"
    log("jobmanager-1-standalonesession-0", line("08:00:30", GRANTED))
    assert cluster.leader() == "jobmanager-1"
    # the file is full: another one is begun
    newest = next(cluster.log_folder.glob("flink-jobmanager-1-*.log"))
    newest.rename(newest.with_name(newest.name + ".1"))
    log("jobmanager-1-standalonesession-0", line("09:00:00", "nothing of interest"))
    assert cluster.leader() == "jobmanager-1"
