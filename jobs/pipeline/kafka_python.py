"""Properties of Kafka's client as the Python client takes them (preflight, audit)."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jobs.pipeline import kafka_tokens
from jobs.pipeline.jaas import login_module


class UnusableError(Exception):
    """The Python client cannot take these properties; the message says which, and why."""


class WrongPropertyError(Exception):
    """No client could use these properties; the message begins with the property."""


def for_python(properties: Mapping[str, str]) -> dict[str, Any]:
    """What `kafka.KafkaConsumer` (kafka-python) is to be given for these properties.

    Raises UnusableError for a mechanism or a key store that it does not know, and
    WrongPropertyError for files that are not what they should be, and for a token that is refused.
    """
    protocol = properties.get("security.protocol", "PLAINTEXT")
    options: dict[str, Any] = {"security_protocol": protocol}
    if "isolation.level" in properties:
        options["isolation_level"] = properties["isolation.level"]
    if protocol.startswith("SASL_"):
        options |= _sasl(properties)
    if protocol.endswith("SSL"):
        options["ssl_context"] = ssl_context(properties)
        options["ssl_check_hostname"] = options["ssl_context"].check_hostname
    return options


def _sasl(properties: Mapping[str, str]) -> dict[str, Any]:
    mechanism = properties.get("sasl.mechanism", "GSSAPI")
    module = login_module(properties.get("sasl.jaas.config", ""))
    if mechanism == "OAUTHBEARER":
        if module is None:
            raise UnusableError("sasl.jaas.config names no login module")
        try:
            token = kafka_tokens.token_of(properties, module)
            token()  # the client would say nothing of what is wrong with it
        except kafka_tokens.NoTokenError as error:
            raise UnusableError(str(error)) from None
        except kafka_tokens.RefusedError as error:
            raise WrongPropertyError(str(error)) from None
        return {"sasl_mechanism": mechanism, "sasl_oauth_token_provider": _provider(token)}
    if mechanism not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        raise UnusableError(f"sasl.mechanism {mechanism} is not one that the Python client takes")
    if module is None or not {"username", "password"} <= module.options.keys():
        raise UnusableError("sasl.jaas.config says no username and password")
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": module.options["username"],
        "sasl_plain_password": module.options["password"],
    }


def _provider(token: Callable[[], str]) -> Any:
    # on import it loads the whole client
    from kafka.net.sasl.oauth import AbstractTokenProvider

    class Provider(AbstractTokenProvider):
        def token(self) -> str:
            return token()

    return Provider()


def ssl_context(properties: Mapping[str, str]) -> ssl.SSLContext:
    """What TLS connections are made with. Raises UnusableError and WrongPropertyError."""
    context = ssl.create_default_context()
    # Kafka: an empty algorithm switches the check of the host name off
    context.check_hostname = bool(
        properties.get("ssl.endpoint.identification.algorithm", "https").strip()
    )
    if "ssl.truststore.certificates" in properties:
        context = _trusting(
            context, "ssl.truststore.certificates", cadata=properties["ssl.truststore.certificates"]
        )
    elif "ssl.truststore.location" in properties:
        location = _pem(properties, "ssl.truststore")
        context = _trusting(context, "ssl.truststore.location", cafile=location)
    if "ssl.keystore.key" in properties or "ssl.keystore.certificate.chain" in properties:
        _present_text(context, properties)
    elif "ssl.keystore.location" in properties:
        _present(context, _pem(properties, "ssl.keystore"), properties, "ssl.keystore.location")
    return context


def _trusting(default: ssl.SSLContext, name: str, **certificates: str) -> ssl.SSLContext:
    """A context that trusts these certificates, and not those of the system."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = default.check_hostname
    try:
        context.load_verify_locations(**certificates)
    except (OSError, ValueError):
        raise WrongPropertyError(f"{name}: there is no certificate in PEM") from None
    return context


def _present_text(context: ssl.SSLContext, properties: Mapping[str, str]) -> None:
    """A key and a certificate that stand in the properties; they are read from files only."""
    for name in ("ssl.keystore.key", "ssl.keystore.certificate.chain"):
        if name not in properties:
            raise WrongPropertyError(f"{name}: a key and its certificates go together")
    text = f"{properties['ssl.keystore.key']}\n{properties['ssl.keystore.certificate.chain']}\n"
    handle, path = tempfile.mkstemp(prefix="sample-stitch-")  # others cannot read it
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        _present(context, path, properties, "ssl.keystore.key")
    finally:
        Path(path).unlink()


def _present(context: ssl.SSLContext, path: str, properties: Mapping[str, str], name: str) -> None:
    """Let the server have the certificate in a file, with its key."""
    try:
        # without a text for it, OpenSSL would ask for the password on the terminal
        context.load_cert_chain(path, password=properties.get("ssl.key.password", ""))
    except (OSError, ValueError):
        raise WrongPropertyError(
            f"{name}: expected a key and its certificate in PEM, and in ssl.key.password the "
            "password of the key if it has one"
        ) from None


def _pem(properties: Mapping[str, str], store: str) -> str:
    """The file of a store. Raises UnusableError."""
    location = properties[f"{store}.location"]
    kind = properties.get(f"{store}.type", "JKS")
    if kind != "PEM":
        raise UnusableError(f"{store}.type {kind} is not read by the Python client; it takes PEM")
    if not Path(location).is_file():
        # it may be on the machines of the cluster
        raise UnusableError(f"{store}.location: there is no file {location}")
    return location
