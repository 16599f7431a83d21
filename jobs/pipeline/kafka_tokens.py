"""Tokens for OAUTHBEARER, for the Python client: where Kafka's own client would take them from.

A token comes from a file or from a token endpoint (`sasl.oauthbearer.token.endpoint.url`). Or it is
made of the claims in `sasl.jaas.config` (`unsecuredLoginStringClaim_sub="..."`) and not signed,
which only brokers for tests take. https://kafka.apache.org/documentation/#security_sasl_oauthbearer
"""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from jobs.pipeline.jaas import LoginModule

_STRING, _NUMBER, _LIST = (f"unsecuredLogin{kind}Claim_" for kind in ("String", "Number", "List"))
_LASTS_S = 3600
_ENDPOINT_S = 10.0


class RefusedError(Exception):
    """The token endpoint gives no token; the message begins with the property to look at."""


class NoTokenError(Exception):
    """The properties name no source of tokens that is known here; the message says which are."""


def token_of(properties: Mapping[str, str], module: LoginModule) -> Callable[[], str]:
    """What gives a token for each connection that is made; it raises RefusedError.

    A file is read again each time, since tokens are renewed. Raises NoTokenError.
    """
    endpoint = properties.get("sasl.oauthbearer.token.endpoint.url")
    if endpoint is not None:
        parts = urlsplit(endpoint)
        if parts.scheme in ("http", "https"):
            return _endpoint(endpoint, properties, module)
        path = Path(unquote(parts.path))
        if not path.is_file():
            raise NoTokenError(f"sasl.oauthbearer.token.endpoint.url: there is no file {path}")
        return lambda: path.read_text(encoding="utf-8").strip()
    if any(name.startswith("unsecuredLogin") for name in module.options):
        return lambda: unsigned(module.options, int(time.time()))
    raise NoTokenError(
        "sasl.oauthbearer.token.endpoint.url is not set, and sasl.jaas.config has no claims"
    )


def _endpoint(
    endpoint: str, properties: Mapping[str, str], module: LoginModule
) -> Callable[[], str]:
    """Kafka's `ClientCredentialsJwtRetriever`. Raises NoTokenError for another one."""
    credentials = "sasl.oauthbearer.client.credentials.client."
    name = properties.get(f"{credentials}id", module.options.get("clientId"))
    secret = properties.get(f"{credentials}secret", module.options.get("clientSecret"))
    if name is None or secret is None:
        raise NoTokenError(
            f"there is no {credentials}id or {credentials}secret, and the Python client knows no "
            "other way to get a token"
        )
    scope = properties.get("sasl.oauthbearer.scope", module.options.get("scope"))
    form = {"grant_type": "client_credentials"} | ({} if scope is None else {"scope": scope})
    kept: tuple[str, float] = ("", -math.inf)

    def token() -> str:
        nonlocal kept
        if time.monotonic() >= kept[1]:
            kept = _asked(endpoint, form, (name, secret))
        return kept[0]

    return token


def _asked(endpoint: str, form: dict[str, str], login: tuple[str, str]) -> tuple[str, float]:
    """A token of an endpoint, and until when (`time.monotonic`) it may be used again."""
    import requests

    key = "sasl.oauthbearer.token.endpoint.url"
    try:
        answer = requests.post(endpoint, data=form, auth=login, timeout=_ENDPOINT_S)
    except requests.RequestException as error:
        # the text of the error may have the whole request in it
        raise RefusedError(f"{key}: {endpoint} does not answer ({type(error).__name__})") from None
    if not answer.ok:
        raise RefusedError(
            f"{key}: {endpoint} gives no token ({answer.status_code} {answer.reason}); check "
            "client id, client secret and scope"
        )
    try:
        content = answer.json()
        return str(content["access_token"]), time.monotonic() + int(content["expires_in"]) / 2
    except (ValueError, KeyError, TypeError):
        raise RefusedError(f"{key}: {endpoint} answers, but not with a token") from None


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
