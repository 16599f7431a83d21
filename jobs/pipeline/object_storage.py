"""`s3://` in a local run: Flink's file system for S3 as a plugin, and what it is told.

On a cluster Flink loads plugins itself, when a process starts, and their options are those of the
cluster's own configuration (docs/object-storage.md). The mini-cluster of a local run loads none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configuration.reading import Wrong
from configuration.store_requests import ObjectStorageSection

#: Options of the file system, as `[flink]` may have them.
_PREFIXES = ("s3.", "s3a.", "fs.s3a.")
#: Of those, the ones that log in.
_CREDENTIALS = re.compile(r"(fs\.)?s3a?\.((access|secret)[.-]key|session[.-]token)")


def check(flink: Mapping[str, str], wrong: Wrong) -> None:
    """Raises ConfigError for credentials that are written out in `[flink]`."""
    for key, value in flink.items():
        if _CREDENTIALS.fullmatch(key) and "${" not in value:
            raise wrong(
                f"flink.{key}",
                "credentials do not belong in this file: leave the key out and set"
                " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or refer to a variable, ${NAME},"
                " or to a file, ${file:PATH}",
            )


def options(section: ObjectStorageSection, flink: Mapping[str, str]) -> dict[str, str]:
    """What Flink's file system is told, by its own keys; those of `[flink]` (`flink`) go last.

    Credentials need not be among it: the file system looks for them where AWS's own clients do.
    """
    told = {
        "s3.path.style.access": str(section.in_path).lower(),
        # otherwise every write deletes all folders above it, in case they are objects, too
        "fs.s3a.directory.marker.retention": "keep",
    }
    if section.endpoint is not None:
        told["s3.endpoint"] = section.endpoint
    if section.region is not None:
        told["s3.endpoint.region"] = section.region
    own = {key: value for key, value in flink.items() if key.startswith(_PREFIXES)}
    return told | own


def load_plugin(jars: Sequence[Path], options: Mapping[str, str]) -> None:
    """Give this process's JVM the file system of `s3://`, with a class loader of its own.

    `jars`: those of the plugin.
    """
    from pyflink.java_gateway import get_gateway

    gateway = get_gateway()
    jvm = gateway.jvm
    configuration = jvm.org.apache.flink.configuration.Configuration()
    for key, value in options.items():
        configuration.setString(key, value)
    urls = gateway.new_array(jvm.java.net.URL, len(jars))
    for i, jar in enumerate(jars):
        urls[i] = jvm.java.net.URL(jar.as_uri())
    plugins = jvm.org.apache.flink.core.plugin
    none = gateway.new_array(jvm.java.lang.String, 0)
    plugin: Any = plugins.PluginDescriptor("s3", urls, none)
    shared = jvm.org.apache.flink.configuration.CoreOptions.getPluginParentFirstLoaderPatterns(
        configuration
    )
    manager = plugins.DefaultPluginManager(jvm.java.util.Collections.singleton(plugin), shared)
    jvm.org.apache.flink.core.fs.FileSystem.initialize(configuration, manager)
