"""Tokens for OAUTHBEARER, for the Python client: where Kafka's own client would take them from.

A token comes from a file (`sasl.oauthbearer.token.endpoint.url = "file:///..."`), or it is made of
the claims in `sasl.jaas.config` (`unsecuredLoginStringClaim_sub="..."`) and not signed, which only
brokers for tests take. https://kafka.apache.org/documentation/#security_sasl_oauthbearer
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from jobs.pipeline.jaas import LoginModule

_STRING, _NUMBER, _LIST = (f"unsecuredLogin{kind}Claim_" for kind in ("String", "Number", "List"))
_LASTS_S = 3600


class NoTokenError(Exception):
    """The properties name no source of tokens that is known here; the message says which are."""


def token_of(properties: Mapping[str, str], module: LoginModule) -> Callable[[], str]:
    """What gives a token for each connection that is made. Raises NoTokenError.

    A file is read again each time, since tokens are renewed.
    """
    endpoint = properties.get("sasl.oauthbearer.token.endpoint.url")
    if endpoint is not None:
        parts = urlsplit(endpoint)
        if parts.scheme != "file":
            raise NoTokenError(
                "sasl.oauthbearer.token.endpoint.url is not a file: the Python client asks no "
                "token endpoint"
            )
        path = Path(unquote(parts.path))
        if not path.is_file():
            raise NoTokenError(f"sasl.oauthbearer.token.endpoint.url: there is no file {path}")
        return lambda: path.read_text(encoding="utf-8").strip()
    if any(name.startswith("unsecuredLogin") for name in module.options):
        return lambda: unsigned(module.options, int(time.time()))
    raise NoTokenError(
        "sasl.oauthbearer.token.endpoint.url is not set, and sasl.jaas.config has no claims"
    )


def unsigned(options: Mapping[str, str], now: int) -> str:
    """A token with the claims of a login module's options, as Kafka's client makes it.

    `now`: seconds since the epoch.
    """
    lasts = int(options.get("unsecuredLoginLifetimeSeconds", _LASTS_S))
    claims: dict[str, Any] = {"iat": now, "exp": now + lasts}
    for name, text in options.items():
        if name.startswith(_STRING):
            claims[name.removeprefix(_STRING)] = text
        elif name.startswith(_NUMBER):
            claims[name.removeprefix(_NUMBER)] = float(text)
        elif name.startswith(_LIST):
            # the first character separates the others
            claims[name.removeprefix(_LIST)] = text[1:].split(text[:1]) if text else []
    parts = ({"alg": "none"}, claims)
    return ".".join([*(_base64(json.dumps(part).encode()) for part in parts), ""])


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
