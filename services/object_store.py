"""A real S3-compatible server for trials and tests: S3Proxy over a folder, on loopback.

It checks signatures (version 4), keeps multipart uploads until they are completed, and answers to
conditional writes. The objects are files below the folder. What real S3 does beyond that it does
not show (docs/object-storage.md).
"""

from __future__ import annotations

import os
import secrets
import urllib.error
import urllib.request
from pathlib import Path

from services import process
from services.jars import jar_paths
from services.java import find_java_home
from services.process import ProcessId
from services.started import Started, await_answer

_READY_DEADLINE_S = 60.0
_MAIN = "org.gaul.s3proxy.Main"
_JVM_OPTIONS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_CONFIGURATION = """\
s3proxy.endpoint=http://127.0.0.1:{port}
s3proxy.authorization=aws-v4
s3proxy.identity={user}
s3proxy.credential={password}
# checksums that it does not compute, which clients send along
s3proxy.ignore-unknown-headers=true
jclouds.provider=filesystem-nio2
jclouds.filesystem.basedir={data}
"""
_LOG = """\
<configuration>
  <appender name="console" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d %-5level %logger - %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="console"/></root>
</configuration>
"""


class ObjectStoreError(Exception):
    """The server could not be started; the message holds the end of its log."""


class ObjectStore(Started):
    """One server in a folder of its own, which keeps its objects between starts.

    `environment`: the variables with which clients of AWS's log in.
    """

    def __init__(self, folder: Path) -> None:
        """Describe a server; nothing is started."""
        self._folder = folder.resolve()
        self._port = 0
        self._process: ProcessId | None = None
        self.data = self._folder / "data"
        self.log = self._folder / "s3proxy.log"
        self.environment = {
            "AWS_ACCESS_KEY_ID": "sample-stitch",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
            "AWS_REGION": "us-east-1",
        }

    @property
    def endpoint(self) -> str:
        """The URL of the service."""
        return f"http://127.0.0.1:{self._port}"

    def make_bucket(self, name: str) -> None:
        """An empty bucket, if there is none of that name."""
        (self.data / name).mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start it, at the same port as before, and return when it answers.

        Raises:
            ObjectStoreError: if it ends, or does not answer within a minute.
            JarError, JavaError: if the set-up has not been run.
        """
        self.data.mkdir(parents=True, exist_ok=True)
        self._port = self._port or process.free_port()
        configuration, logging = self._folder / "s3proxy.properties", self._folder / "logback.xml"
        configuration.write_text(
            _CONFIGURATION.format(
                port=self._port,
                user=self.environment["AWS_ACCESS_KEY_ID"],
                password=self.environment["AWS_SECRET_ACCESS_KEY"],
                data=self.data,
            ),
            encoding="utf-8",
        )
        configuration.chmod(0o600)
        logging.write_text(_LOG, encoding="utf-8")
        class_path = os.pathsep.join(str(path) for path in jar_paths("s3proxy"))
        self._process = process.start(
            [
                *(find_java_home() / "bin" / "java", *_JVM_OPTIONS),
                *(f"-Dlogback.configurationFile={logging}", "-cp", class_path, _MAIN),
                *("--properties", configuration),
            ],
            log=self.log,
            environment=os.environ,
            tied=True,
        )
        await_answer(
            self._process,
            self._answers,
            name="S3Proxy",
            within_s=_READY_DEADLINE_S,
            log=self.log,
            stop=self.stop,
            error=ObjectStoreError,
        )

    def stop(self) -> None:
        """Stop it; the objects stay."""
        if self._process is not None:
            process.stop(self._process)
        self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=2):
                return True
        except urllib.error.HTTPError:
            return True  # nobody may list the buckets without a signature
        except OSError:
            return False
