"""Brokers that ask for a login, for TLS, for a certificate, and what is said when it fails.

Here it is the preflight that says it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.pipeline import kafka_consumer, preflight
from jobs.pipeline.config import ConfigError, load
from tests.e2e import kafka_logins
from tests.e2e.kafka_logins import (
    Login,
    configuration,
    found_in,
    like,
    over_tls,
    plain,
    presenting,
    scram,
    tls,
    token,
    token_endpoint,
    trusting,
    unsigned_token,
)
from tests.e2e.secured import KEY_PASSWORD, SecuredBroker
from tests.e2e.secured_topics import REQUESTS, START, TOPICS
from tools.audit import source


@pytest.fixture(name="broker")
def _broker(secured_topics: SecuredBroker) -> SecuredBroker:
    return secured_topics


@pytest.mark.parametrize(
    "name",
    [
        "PLAIN",
        "SCRAM-SHA-256",
        "SCRAM-SHA-512",
        "OAUTHBEARER, a token in a file",
        "OAUTHBEARER, a token endpoint",
        "TLS with PLAIN",
        "TLS with SCRAM-SHA-512",
        "TLS with OAUTHBEARER, unsigned",
        "a client's certificate",
        "a client's certificate in the environment",
    ],
)
def test_preflight_and_audit_log_in(broker: SecuredBroker, tmp_path: Path, name: str) -> None:
    login = kafka_logins.good(broker)[name]
    pipeline = load(configuration(broker, tmp_path, TOPICS, login), (), login.secrets)
    assert preflight.check(pipeline) == []
    read = list(source.records(pipeline.sources.each[1], []))
    assert [record.time for record in read] == [START + i * 1000 + 1 for i in range(REQUESTS)]


WRONG: dict[str, tuple[Callable[[SecuredBroker], Login], str]] = {
    "password of PLAIN": (
        lambda broker: plain(word="Zw4WrongBattery"),
        "properties.sasl.jaas.config: {LOGIN} closes the connection at the login as 'joiner': user "
        "name or password is wrong, or the listener does not take SASL_PLAINTEXT with PLAIN",
    ),
    "password of SCRAM over TLS": (
        lambda broker: trusting(
            over_tls(scram(word="Zw4WrongBattery")), broker.authority.certificate
        ),
        "properties.sasl.jaas.config: {TLS} closes the connection at the login as 'joiner': user "
        "name or password is wrong, or the listener does not take SASL_SSL with SCRAM-SHA-512",
    ),
    "token": (
        lambda broker: token(broker.tokens.token("joiner", expired=True)),
        "properties.sasl.jaas.config: {LOGIN} closes the connection at the login: the token is "
        "wrong or has expired, or the listener does not take SASL_PLAINTEXT with OAUTHBEARER",
    ),
    "authority": (
        lambda broker: trusting(over_tls(plain()), broker.other_authority.certificate),
        "properties.ssl.truststore.location: the certificate of {TLS} is not signed by an "
        "authority in {other} (unable to get local issuer certificate); put the certificate of the "
        "brokers' authority there",
    ),
    "no authority": (
        lambda broker: over_tls(plain()),
        "properties.ssl.truststore.location: the certificate of {TLS} is not signed by an "
        "authority that this machine trusts (unable to get local issuer certificate); name the "
        "file with the certificate of the brokers' authority, and set ssl.truststore.type = "
        '"PEM"',
    ),
    "certificate of the broker": (
        lambda broker: trusting(tls("EXPIRED"), broker.authority.certificate),
        "bootstrap_servers: the certificate of {EXPIRED} has expired; renew it on the broker (or "
        "set the clock of this machine right)",
    ),
    "name in the certificate of the broker": (
        lambda broker: trusting(tls("ELSEWHERE"), broker.authority.certificate),
        "bootstrap_servers: the certificate of {ELSEWHERE} is not for 127.0.0.1, but for "
        "kafka.example; use a name that is in it, or have one made that has this name",
    ),
    "no certificate of the client": (
        lambda broker: trusting(tls("MUTUAL"), broker.authority.certificate),
        "properties.ssl.keystore.location: {MUTUAL} wants a certificate of the client (bad "
        "certificate); name a PEM file with the key and the certificate, and set "
        'ssl.keystore.type = "PEM"',
    ),
    "expired certificate of the client": (
        lambda broker: presenting(
            trusting(tls("MUTUAL"), broker.authority.certificate), broker.expired_client.plain
        ),
        "properties.ssl.keystore.location: {MUTUAL} refuses the client's certificate (certificate "
        "unknown): has it expired, or do the brokers not trust its authority? Look at it: openssl "
        "x509 -noout -dates -issuer -in {old}",
    ),
    "password of the key": (
        lambda broker: presenting(
            trusting(tls("MUTUAL"), broker.authority.certificate),
            broker.client.encrypted,
            "Zw4WrongBattery",
        ),
        "properties.ssl.keystore.location: expected a key and its certificate in PEM, and in "
        "ssl.key.password the password of the key if it has one",
    ),
    "no password of the key": (
        lambda broker: presenting(
            trusting(tls("MUTUAL"), broker.authority.certificate), broker.client.encrypted
        ),
        "properties.ssl.keystore.location: expected a key and its certificate in PEM, and in "
        "ssl.key.password the password of the key if it has one",
    ),
    "TLS is wanted": (
        lambda broker: Login("TLS", plain().properties, plain().secrets),
        "properties.security.protocol: {TLS} talks TLS, and SASL_PLAINTEXT does not; set SASL_SSL",
    ),
    "TLS is not wanted": (
        lambda broker: trusting(
            Login("LOGIN", over_tls(plain()).properties, plain().secrets),
            broker.authority.certificate,
        ),
        "properties.security.protocol: {LOGIN} takes connections, but the TLS handshake fails *; "
        "set security.protocol and ssl.* as the brokers' listener "
        "has them",
    ),
    "secret of the client": (
        lambda broker: token_endpoint(broker.token_endpoint.url, "Zw4WrongBattery"),
        "properties.sasl.oauthbearer.token.endpoint.url: {endpoint} gives no token (401 "
        "Unauthorized); check client id, client secret and scope",
    ),
    "place of the token endpoint": (
        lambda broker: token_endpoint("http://127.0.0.1:1/token"),
        "properties.sasl.oauthbearer.token.endpoint.url: http://127.0.0.1:1/token does not answer "
        "(ConnectionError)",
    ),
    "signature of the token": (
        lambda broker: unsigned_token("LOGIN"),
        "properties.sasl.jaas.config: {LOGIN} closes the connection at the login: the token is "
        "wrong or has expired, or the listener does not take SASL_PLAINTEXT with OAUTHBEARER",
    ),
}


def line_of(broker: SecuredBroker, path: Path, login: Login, *overrides: str) -> str:
    """What the preflight says; without the source."""
    pipeline = load(path, overrides, login.secrets)
    with pytest.raises(ConfigError) as raised:
        preflight.check(pipeline)
    text = str(raised.value)
    assert found_in(login.secrets, text) == []
    assert "\n" not in text
    return text.removeprefix("sources.features.")


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_one_line_before_the_start(
    broker: SecuredBroker, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_consumer, "_TIMEOUT_MS", 1_500)
    make, line = WRONG[what]
    login = make(broker)
    places = {name: broker.servers(name) for name in ("LOGIN", "TLS", "MUTUAL")}
    places |= {name: broker.servers(name) for name in ("EXPIRED", "ELSEWHERE")}
    places |= {
        "other": str(broker.other_authority.certificate),
        "endpoint": broker.token_endpoint.url,
        "old": str(broker.expired_client.plain),
    }
    said = line_of(broker, configuration(broker, tmp_path, TOPICS, login), login)
    # a star is what OpenSSL says in words that change with its releases
    assert like(line.format(**places), said), said


def test_an_encrypted_key_opens_with_its_password(broker: SecuredBroker, tmp_path: Path) -> None:
    ca = broker.authority.certificate
    login = presenting(trusting(tls("MUTUAL"), ca), broker.client.encrypted, KEY_PASSWORD)
    pipeline = load(configuration(broker, tmp_path, TOPICS, login), (), login.secrets)
    assert preflight.check(pipeline) == []


def test_missing_rights_are_told_with_the_command_that_gives_them(
    broker: SecuredBroker, tmp_path: Path
) -> None:
    """One after the other, as an operator would meet them."""
    for stream in ("features", "actions"):
        broker.create_topic(f"rights-{stream}")
    login = scram(user="stranger")
    path = configuration(broker, tmp_path, "rights", login)
    allowing = "kafka-acls --add --allow-principal User:stranger"

    said = line_of(broker, path, login)
    assert said.startswith("topic: there is no topic 'rights-features'")
    assert f"{allowing} --operation Read --operation Describe --topic rights-features" in said

    broker.allow("stranger", "DESCRIBE", "TOPIC", "rights-features")
    assert line_of(broker, path, login) == (
        "topic: the user 'stranger' may not read 'rights-features'; "
        f"{allowing} --operation Read --operation Describe --topic rights-features"
    )
    for stream in ("features", "actions"):
        broker.allow("stranger", "READ", "TOPIC", f"rights-{stream}")
    pipeline = load(path, (), login.secrets)
    assert preflight.check(pipeline) == []

    group = "sources.features.group_id=rights"
    assert line_of(broker, path, login, group) == (
        "group_id: the user 'stranger' may not use the group 'rights'; "
        f"{allowing} --operation Read --group rights"
    )
    broker.allow("stranger", "READ", "GROUP", "rights")
    assert preflight.check(load(path, [group], login.secrets)) == []
