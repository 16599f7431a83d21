"""Jobs that log in to Kafka in every way, and what they say when they cannot.

A job says it itself only when the preflight could not look, as with a PKCS12 store, so that is how
it is brought about.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from jobs.pipeline.config import load
from tests.e2e import kafka_logins, several_jobs
from tests.e2e.kafka_logins import (
    Login,
    configuration,
    found_below,
    found_in,
    java_options,
    over_tls,
    plain,
    presenting,
    scram,
    tls,
    trusting,
)
from tests.e2e.secured import KEY_PASSWORD, SecuredBroker
from tests.e2e.secured_topics import REQUESTS, TOPICS
from tests.flink import running
from tools.audit.command import audit

_ALLOWING = "kafka-acls --add --allow-principal User:NAME --operation Read"


def readable_by_java(broker: SecuredBroker, folder: Path) -> Path:
    """The client's store with a key that is encrypted as Java 17 wants it, see docs/kafka.md."""
    key = folder / "key.pem"
    key.write_text(broker.client.key)
    command = ["openssl", "pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES", "-in", str(key)]
    command += ["-passout", f"pass:{KEY_PASSWORD}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    key.unlink()
    store = folder / "joiner.pem"
    store.write_text(done.stdout + broker.client.chain)
    return store


@pytest.mark.thorough
def test_every_login_joins_and_is_audited(secured_topics: SecuredBroker, tmp_path: Path) -> None:
    """Each stream has a login of its own. No secret is in what is written or said."""
    broker = secured_topics
    logins = kafka_logins.good(broker)
    logins["a PKCS12 store"] = trusting(over_tls(scram()), broker.authority.java)
    if shutil.which("openssl"):
        logins["a client's encrypted key"] = trusting(
            presenting(tls("MUTUAL"), readable_by_java(broker, tmp_path), KEY_PASSWORD),
            broker.authority.certificate,
        )
    names = sorted(logins)
    pairs = list(itertools.zip_longest(names[::2], names[1::2], fillvalue=names[0]))
    jobs = []
    for n, (features, actions) in enumerate(pairs):
        folder = tmp_path / str(n)
        folder.mkdir()
        path = configuration(broker, folder, TOPICS, logins[features], logins[actions])
        jobs.append((path, {**logins[features].secrets, **logins[actions].secrets}))

    done, printed = several_jobs.run(jobs, java_options(logins.values()))

    for (path, secrets), job, pair in zip(jobs, done, pairs, strict=True):
        assert job.code == 0, (pair, job.said)
        rows = running.rows(path.parent / "out", "samples")
        assert {row["request_id"]: row["label_click"] for row in rows} == {
            f"r{i}": 1 for i in range(REQUESTS)
        }
        assert found_in(secrets, job.said + printed) == []
        assert found_below(secrets, tmp_path) == []
        if "a PKCS12 store" not in pair:
            report = audit(load(path, (), secrets))
            assert report.closes, (pair, report.findings)


@pytest.mark.thorough
def test_what_is_wrong_is_one_line_of_the_job(
    secured_topics: SecuredBroker, tmp_path: Path
) -> None:
    broker = secured_topics
    store = broker.authority.java

    def ours(login: Login) -> Login:
        return trusting(login, store)

    def strangers() -> Login:
        return ours(over_tls(plain(user="stranger")))

    committed = 'end = "latest"\nstart = "committed"\ngroup_id = "forbidden"'
    for stream in ("features", "actions"):
        broker.create_topic(f"allowed-{stream}")
        broker.allow("stranger", "READ", "TOPIC", f"allowed-{stream}")
    wrong: dict[str, tuple[Login, str, str, str]] = {
        "topic": (
            strangers(),
            TOPICS,
            'end = "latest"',
            "the user of sources.*.properties may not read a topic: Topic authorization failed. "
            f"Allow it: {_ALLOWING} --operation Describe --topic TOPIC",
        ),
        "group": (
            strangers(),
            "allowed",
            committed,
            "the user of sources.*.properties may not use group_id: Not authorized to access "
            f"group: forbidden. Allow it: {_ALLOWING} --group GROUP",
        ),
        "password": (
            ours(over_tls(scram(word="Zw4WrongBattery"))),
            TOPICS,
            'end = "latest"',
            "the Kafka brokers refuse the login: Authentication failed during authentication due "
            "to invalid credentials with SASL mechanism SCRAM-SHA-512. Check user name, password "
            "and mechanism in sources.*.properties",
        ),
        "authority": (
            trusting(over_tls(scram()), broker.other_authority.java),
            TOPICS,
            'end = "latest"',
            "the certificate of a Kafka broker is not signed by an authority in the trust store: "
            "put the certificate of the brokers' authority where ssl.truststore.* in "
            "sources.*.properties points",
        ),
        "expired": (
            ours(tls("EXPIRED")),
            TOPICS,
            'end = "latest"',
            "the certificate of a Kafka broker has expired or is not valid yet: NotAfter: *. "
            "Renew it on the broker, or set the clocks right",
        ),
        "host name": (
            ours(tls("ELSEWHERE")),
            TOPICS,
            'end = "latest"',
            "the certificate of a Kafka broker is for another host: No subject alternative names "
            "matching IP address 127.0.0.1 found. Use a name that is in it, in bootstrap_servers "
            "and in the brokers' advertised.listeners, or have one made that has this name",
        ),
        "no certificate": (
            ours(tls("MUTUAL")),
            TOPICS,
            'end = "latest"',
            "the Kafka brokers do not accept the client's certificate, or there is none: *",
        ),
        "old certificate": (
            presenting(ours(tls("MUTUAL")), broker.expired_client.plain),
            TOPICS,
            'end = "latest"',
            "the Kafka brokers do not accept the client's certificate, or there is none: *",
        ),
        "password of the store": (
            trusting(over_tls(scram()), store, word="Zw4WrongBattery"),
            TOPICS,
            'end = "latest"',
            "Kafka's client cannot read a store of sources.*.properties: Failed to load SSL "
            "keystore * of type PKCS12. Check location, type and passwords of ssl.truststore.* and "
            "ssl.keystore.*; the file must be on every machine of the cluster",
        ),
    }
    jobs = []
    for n, (login, topics, keys, _) in enumerate(wrong.values()):
        folder = tmp_path / str(n)
        folder.mkdir()
        path = configuration(broker, folder, topics, login, keys=keys)
        jobs.append((path, login.secrets))

    done, printed = several_jobs.run(jobs, {})

    for (what, (login, *_, line)), job in zip(wrong.items(), done, strict=True):
        assert job.code == 1, (what, job.said)
        found = [text for text in job.said.splitlines() if kafka_logins.like(line, text)]
        assert len(found) == 1, (what, job.said)
        assert found_in(login.secrets, job.said + printed) == []
        assert found_below(login.secrets, tmp_path) == []
