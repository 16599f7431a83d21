"""Log4j's configuration for Flink's processes: to rolling files or the console, as text or JSON.

python -m services.log4j [files|console] [text|json] > conf/log4j-console.properties
"""

from __future__ import annotations

import argparse
from typing import Literal, get_args

Target = Literal["files", "console"]
Format = Literal["text", "json"]

#: A process keeps the file that it writes and so many before it, of this size each.
FILES, SIZE = 5, "50MB"

_ROOT = """\
rootLogger.level = ${env:ROOT_LOG_LEVEL:-INFO}
rootLogger.appenderRef.log.ref = log
appender.log.name = log
"""
_TARGETS: dict[Target, str] = {
    "files": """\
appender.log.type = RollingFile
appender.log.append = true
appender.log.fileName = ${sys:log.file}
appender.log.filePattern = ${sys:log.file}.%i
appender.log.policies.type = Policies
appender.log.policies.size.type = SizeBasedTriggeringPolicy
appender.log.policies.size.size = @SIZE
appender.log.strategy.type = DefaultRolloverStrategy
appender.log.strategy.fileIndex = min
appender.log.strategy.max = @FILES
""",
    "console": """\
appender.log.type = CONSOLE
""",
}
_FORMATS: dict[Format, str] = {
    "text": """\
appender.log.layout.type = PatternLayout
appender.log.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %-60c %x - %m%n
""",
    # The Elastic Common Schema: @timestamp, log.level, log.logger, message.
    "json": """\
appender.log.layout.type = JsonTemplateLayout
appender.log.layout.eventTemplateUri = classpath:EcsLayout.json
""",
}


def configuration(target: Target, layout: Format) -> str:
    """The text of a properties file. Files are where the system property `log.file` says, which
    Flink's own scripts and PyFlink set, and `.1` is the newest of the old ones. The environment
    variable `ROOT_LOG_LEVEL` sets the level.
    """
    appender = _TARGETS[target].replace("@SIZE", SIZE).replace("@FILES", str(FILES))
    return _ROOT + appender + _FORMATS[layout]


def main() -> None:
    """The command line: prints the file."""
    parser = argparse.ArgumentParser(prog="python -m services.log4j", description=__doc__)
    parser.add_argument("target", nargs="?", default="files", choices=get_args(Target))
    parser.add_argument("format", nargs="?", default="text", choices=get_args(Format))
    options = parser.parse_args()
    print(configuration(options.target, options.format), end="")


if __name__ == "__main__":
    main()
