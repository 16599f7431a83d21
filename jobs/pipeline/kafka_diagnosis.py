"""Why no connection to a Kafka broker came about: one line, with the key to look at.

The Python client says "timeout" for all of it. So what it does is done again here, step by step: a
TCP connection, a TLS handshake. What remains is the login.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from jobs.pipeline.config import KafkaSource
from jobs.pipeline.jaas import user_of
from jobs.pipeline.kafka_python import ssl_context

_TIMEOUT_S = 3.0
#: OpenSSL's X509_V_ERR_*.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_HOST, _OTHER_ADDRESS = 62, 64
#: What brokers answer to a client without a certificate (TLS 1.3 has a name for it, Java another).
_CERTIFICATE_WANTED = ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "HANDSHAKE_FAILURE")


class _Server(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def no_connection(source: KafkaSource, context: ssl.SSLContext | None, error: Exception) -> str:
    """What is wrong and what to do, beginning with the key of the source to look at.

    `context`: what the client uses for TLS, None without; `error`: what the client said.
    """
    server = _listening(source.bootstrap_servers)
    if server is None:
        return (
            f"bootstrap_servers: no Kafka broker answers at {source.bootstrap_servers} "
            f"({type(error).__name__}); is it up, and is the address right?"
        )
    properties = source.properties
    protocol = properties.get("security.protocol", "PLAINTEXT")
    if context is None and _talks_tls(server):
        return (
            f"properties.security.protocol: {server} talks TLS, and {protocol} does not; set "
            f"{'SASL_SSL' if protocol.startswith('SASL_') else 'SSL or SASL_SSL'}"
        )
    wrong = None if context is None else _wrong_with_tls(server, context, properties)
    if wrong is not None:
        return wrong
    if not protocol.startswith("SASL_"):
        return (
            f"properties.security.protocol: {server} takes connections, but does not talk "
            f"{protocol}; set it as the brokers' listener has it"
        )
    return _wrong_with_login(server, properties)


def _wrong_with_login(server: _Server, properties: Mapping[str, str]) -> str:
    protocol, mechanism = properties["security.protocol"], properties.get("sasl.mechanism")
    user = user_of(properties)
    of_whom = "" if user is None else f" as {user!r}"
    cause = "user name or password is wrong"
    if mechanism == "OAUTHBEARER":
        cause = "the token is wrong or has expired"
    return (
        f"properties.sasl.jaas.config: {server} closes the connection at the login{of_whom}: "
        f"{cause}, or the listener does not take {protocol} with {mechanism}"
    )


# -- TLS -------------------------------------------------------------------------------------------


def _wrong_with_tls(
    server: _Server, context: ssl.SSLContext, properties: Mapping[str, str]
) -> str | None:
    try:
        with _handshake(server, context) as connection:
            # with TLS 1.3 the server judges a client's certificate after the handshake
            connection.recv(1)
    except ssl.SSLCertVerificationError as error:
        return _wrong_with_server(server, error, properties)
    except ssl.SSLError as error:
        return _wrong_with_client(server, error.reason or str(error), properties)
    except OSError:
        return None  # it waits for a request, as it should
    return None


def _wrong_with_server(
    server: _Server, error: ssl.SSLCertVerificationError, properties: Mapping[str, str]
) -> str:
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        what = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
        return (
            f"bootstrap_servers: the certificate of {server} {what}; renew it on the broker (or "
            "set the clock of this machine right)"
        )
    if error.verify_code in (_OTHER_HOST, _OTHER_ADDRESS):
        names = _names_in_certificate(server, properties)
        return (
            f"bootstrap_servers: the certificate of {server} is not for {server.host}"
            f"{f', but for {names}' if names else ''}; use a name that is in it, or have one made "
            "that has this name"
        )
    location = properties.get("ssl.truststore.location")
    if location is None and "ssl.truststore.certificates" not in properties:
        return (
            f"properties.ssl.truststore.location: the certificate of {server} is not signed by an "
            f"authority that this machine trusts ({error.verify_message}); name the file with the "
            'certificate of the brokers\' authority, and set ssl.truststore.type = "PEM"'
        )
    key = "ssl.truststore.certificates" if location is None else "ssl.truststore.location"
    return (
        f"properties.{key}: the certificate of {server} is not signed by an authority in "
        f"{location or 'it'} ({error.verify_message}); put the certificate of the brokers' "
        "authority there"
    )


def _wrong_with_client(server: _Server, reason: str, properties: Mapping[str, str]) -> str:
    said = reason.removeprefix("SSLV3_").removeprefix("TLSV13_").removeprefix("TLSV1_")
    said = said.removeprefix("ALERT_").lower().replace("_", " ")
    location = properties.get("ssl.keystore.location")
    if location is not None or "ssl.keystore.certificate.chain" in properties:
        if "ALERT" in reason:
            key = "location" if location is not None else "certificate.chain"
            look = f": openssl x509 -noout -dates -issuer -in {location}" if location else ""
            return (
                f"properties.ssl.keystore.{key}: {server} refuses the client's certificate "
                f"({said}): has it expired, or do the brokers not trust its authority? Look at it"
                f"{look}"
            )
    elif any(one in reason for one in _CERTIFICATE_WANTED):
        return (
            f"properties.ssl.keystore.location: {server} wants a certificate of the client "
            f"({said}); name a PEM file with the key and the certificate, and set "
            'ssl.keystore.type = "PEM"'
        )
    return (
        f"properties.security.protocol: {server} takes connections, but the TLS handshake fails "
        f"({said}); set security.protocol and ssl.* as the brokers' listener has them"
    )


def _names_in_certificate(server: _Server, properties: Mapping[str, str]) -> str:
    """Host names and addresses of the server's certificate, which is trusted otherwise."""
    context = ssl_context({**properties, "ssl.endpoint.identification.algorithm": ""})
    try:
        with _handshake(server, context) as connection:
            certificate = connection.getpeercert() or {}
    except OSError:
        return ""
    names = certificate.get("subjectAltName", ())
    assert isinstance(names, tuple)
    return ", ".join(str(name[1]) for name in names)


@contextmanager
def _handshake(server: _Server, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """A TLS connection; nothing is waited for longer than a few seconds. Raises OSError."""
    with (
        socket.create_connection(server, timeout=_TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=server.host) as connection,
    ):
        connection.settimeout(1)
        yield connection


def _talks_tls(server: _Server) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with _handshake(server, context):
            return True
    except OSError:
        return False


# -- TCP -------------------------------------------------------------------------------------------


def _listening(servers: str) -> _Server | None:
    """The first of the servers (`host:port,host:port`) that takes a TCP connection."""
    for address in servers.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            server = _Server(host.strip("[]"), int(port))
            with socket.create_connection(server, timeout=_TIMEOUT_S):
                return server
        except (OSError, ValueError, OverflowError):
            continue
    return None
