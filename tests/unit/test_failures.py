"""One line for what Flink and Kafka throw: the cause that says something, and what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.pipeline.failures import explain

#: As py4j and Flink put it: what was called, and then the Java trace.
TRACE = """An error occurred while calling o50.toDataStream.
: org.apache.flink.table.api.TableException: Could not execute
\tat org.apache.flink.A.b(A.java:1)
Caused by: java.util.concurrent.ExecutionException: Failed to list subscribed topic partitions
\tat org.apache.flink.C.d(C.java:2)
Caused by: {cause}
\tat org.apache.flink.E.f(E.java:3)
\t... 12 more
"""
SHADED = "org.apache.flink.kafka.shaded.org.apache.kafka.common"


@pytest.mark.parametrize(
    ("cause", "line"),
    [
        (
            "java.lang.IllegalArgumentException: Property group.id is required",
            "the job failed: java.lang.IllegalArgumentException: Property group.id is required",
        ),
        (
            f"{SHADED}.errors.SaslAuthenticationException: Authentication failed during"
            " authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512",
            "the Kafka brokers refuse the login: Authentication failed during authentication due to"
            " invalid credentials with SASL mechanism SCRAM-SHA-512. Check user name, password and"
            " mechanism in sources.*.properties",
        ),
        (
            f"{SHADED}.errors.SslAuthenticationException: SSL handshake failed\n"
            "Caused by: javax.net.ssl.SSLHandshakeException: PKIX path validation failed\n"
            "\tat a.B\n"
            "Caused by: java.security.cert.CertificateExpiredException: NotAfter: Wed Nov 25",
            "the certificate of a Kafka broker has expired or is not valid yet: NotAfter: Wed Nov"
            " 25. Renew it on the broker, or set the clocks right",
        ),
        (
            # of another service
            "com.amazonaws.SdkClientException: javax.net.ssl.SSLHandshakeException: PKIX path"
            " building failed",
            "the job failed: com.amazonaws.SdkClientException: javax.net.ssl.SSLHandshakeException:"
            " PKIX path building failed",
        ),
        (
            f"{SHADED}.errors.InvalidConfigurationException: Failed to load PEM SSL keystore"
            " /a.pem\nCaused by: java.security.NoSuchAlgorithmException: PBES2 SecretKeyFactory not"
            " available",
            "this Java cannot open the encrypted key in ssl.keystore.* of sources.*.properties:"
            " encrypt it with `openssl pkcs8 -topk8 -v1 PBE-SHA1-3DES`, or use a key without a"
            " password",
        ),
        (
            "javax.security.auth.login.LoginException: No LoginModule found for my.Module",
            "sources.*.properties: sasl.jaas.config names a login module that is not on the class"
            " path: my.Module",
        ),
        (
            f"{SHADED}.errors.GroupAuthorizationException: Not authorized to access group: g",
            "the user of sources.*.properties may not use group_id: Not authorized to access"
            " group: g. Allow it: kafka-acls --add --allow-principal User:NAME --operation Read"
            " --group GROUP",
        ),
        (
            f"{SHADED}.config.ConfigException: Invalid value x for configuration fetch.min.bytes",
            "sources.*.properties: Kafka's client refuses a property: Invalid value x for"
            " configuration fetch.min.bytes",
        ),
        ("java.io.IOException: No space left on device", "the disk is full"),
        # an exception of Python's, as the embedded interpreter throws it
        (
            "pemja.core.PythonException: <class 'schemas.event_files.EventFileError'>: /a/b.jsonl:"
            " cannot be read: Permission denied",
            "an event file could not be read: /a/b.jsonl: cannot be read: Permission denied",
        ),
        (
            "pemja.core.PythonException: <class 'udfs.core.state_codec.StateVersionError'>: state"
            " of version 99; this release reads up to 3",
            "the savepoint is of a newer release: state of version 99; this release reads up to 3",
        ),
        (
            "java.io.FileNotFoundException: File file:/a/_metadata does not exist or the user",
            "a file that the job or its snapshot needs is not there: File file:/a/_metadata does "
            "not exist",
        ),
    ],
)
def test_the_cause_is_found_and_explained(cause: str, line: str) -> None:
    assert explain(RuntimeError(TRACE.format(cause=cause))) == line


def test_the_reason_is_not_what_was_called() -> None:
    """A trace that ends in nothing but wrapping says the least bad of it."""
    text = "An error occurred while calling o50.toDataStream.\n: a.B: something\n\tat c.D\n"
    assert explain(RuntimeError(text)) == "the job failed: a.B: something"
    text = "An error occurred while calling o427.stop. Trace:\npy4j.Py4JException: no such method"
    assert explain(RuntimeError(text)) == "the job failed: py4j.Py4JException: no such method"
    assert explain(RuntimeError("Answer from Java side is empty")).startswith(
        "Flink's Java process"
    )
    assert explain(KeyError()) == "the job failed: KeyError"


@given(st.text())
def test_any_text_becomes_one_line(text: str) -> None:
    assert len(explain(RuntimeError(text)).splitlines()) == 1
    assert len(explain(RuntimeError(TRACE.format(cause=text))).splitlines()) == 1
