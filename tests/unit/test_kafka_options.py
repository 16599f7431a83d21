"""What the connector and the Python client are told about a Kafka source."""

from __future__ import annotations

import base64
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.pipeline import kafka_properties, kafka_tokens
from jobs.pipeline.config import KafkaSource
from jobs.pipeline.jaas import login_module, quoted_for_jaas
from jobs.pipeline.kafka_consumer import topics_of
from jobs.pipeline.kafka_options import table_options, watermark_lag
from jobs.pipeline.kafka_properties import KNOWN, SHADED_PACKAGE, for_connector
from jobs.pipeline.kafka_python import UnusableError, for_python
from services.jars import jar_paths

SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
SECURE = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "SCRAM-SHA-512",
    "sasl.jaas.config": f'{SCRAM} required username="u" password="p";',
}


def source(**keys: object) -> KafkaSource:
    return KafkaSource(topic="t", bootstrap_servers="b:1", **keys)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start", "options"),
    [
        ("earliest", {"scan.startup.mode": "earliest-offset"}),
        ("latest", {"scan.startup.mode": "latest-offset"}),
        ("committed", {"scan.startup.mode": "group-offsets", "properties.group.id": "g"}),
        (7, {"scan.startup.mode": "timestamp", "scan.startup.timestamp-millis": "7"}),
    ],
)
def test_every_start(start: str | int, options: dict[str, str]) -> None:
    assert options.items() <= table_options(source(start=start, group_id="g")).items()


def test_topics_by_list_and_by_pattern() -> None:
    assert table_options(source())["topic"] == "t"
    several = KafkaSource(topic=["a", "b"], bootstrap_servers="b:1")
    assert table_options(several)["topic"] == "a;b"
    pattern = KafkaSource(topic_pattern="a.*", bootstrap_servers="b:1")
    assert table_options(pattern)["topic-pattern"] == "a.*"
    assert "topic" not in table_options(pattern)
    known = ["ab", "a", "b", "ba"]
    assert topics_of(several, known) == ["a", "b"]
    assert topics_of(pattern, known) == ["a", "ab"]


def test_an_end_bounds_the_source_and_idleness_is_for_those_without() -> None:
    until = table_options(source(end=9))
    assert until["scan.bounded.mode"] == "timestamp"
    assert until["scan.bounded.timestamp-millis"] == "9"
    assert table_options(source(end="latest"))["scan.bounded.mode"] == "latest-offset"
    never = table_options(source())
    assert never["scan.watermark.idle-timeout"] == "60000 ms"
    assert "scan.bounded.mode" not in never
    assert "scan.watermark.idle-timeout" not in until


def test_both_streams_are_aligned_in_one_group() -> None:
    from configuration.reading import Duration

    options = table_options(source(max_drift=Duration(5_000)))
    assert options["scan.watermark.alignment.max-drift"] == "5000 ms"
    assert options["scan.watermark.alignment.group"] == "sample-stitch"
    assert not [key for key in table_options(source()) if "alignment" in key]


def test_time_waits_for_partitions_only_as_long_as_they_are_looked_for() -> None:
    from configuration.reading import Duration

    assert table_options(source())["scan.topic-partition-discovery.interval"] == "10000 ms"
    assert watermark_lag(source()) == 10_000 + 10_000 + 5_000
    assert watermark_lag(source(partition_discovery=Duration(0))) == 10_000


def test_no_property_replaces_what_a_key_says() -> None:
    options = table_options(
        source(properties={"bootstrap.servers": "evil:1", "fetch.min.bytes": "7"})
    )
    assert options["properties.bootstrap.servers"] == "b:1"
    assert options["properties.fetch.min.bytes"] == "7"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sasl.jaas.config", f'{SCRAM} required username="u" password="org.apache.kafka.x";'),
        (
            "sasl.jaas.config",
            "com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true;",
        ),
        (
            "partition.assignment.strategy",
            "org.apache.kafka.clients.consumer.RangeAssignor, my.Own",
        ),
        (
            "sasl.login.callback.handler.class",
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler",
        ),
        ("client.rack", "org.apache.kafka.rack"),
    ],
)
def test_class_names_are_those_of_the_connector_jar(name: str, value: str) -> None:
    """Each class that is named is in the jar; what is no class stays as it is."""
    translated = for_connector({name: value})[name]
    assert translated.count(SHADED_PACKAGE) == (
        0 if name == "client.rack" or "Krb5" in value else 1
    )
    assert translated.replace(SHADED_PACKAGE, "org.apache.kafka.").replace(",my", ", my") == value
    assert for_connector({name: value}, "org.apache.kafka.")[name].replace(",my", ", my") == value
    classes = set(zipfile.ZipFile(connector_jar()).namelist())
    for word in translated.replace(",", " ").split():
        if word.startswith(SHADED_PACKAGE):
            assert word.replace(".", "/") + ".class" in classes


def test_every_class_of_oauthbearer_is_in_the_connector_jar() -> None:
    """The login module, its callback handler, and what gets and checks the token."""
    oauth = "org.apache.kafka.common.security.oauthbearer."
    written = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.jaas.config": f"{oauth}OAuthBearerLoginModule required;",
        "sasl.login.callback.handler.class": f"{oauth}OAuthBearerLoginCallbackHandler",
        "sasl.oauthbearer.jwt.retriever.class": f"{oauth}ClientCredentialsJwtRetriever",
        "sasl.oauthbearer.jwt.validator.class": f"{oauth}ClientJwtValidator",
        "sasl.oauthbearer.token.endpoint.url": "https://idp/token",
    }
    kafka_properties.check(written, committed=False, wrong=lambda *said: ValueError(*said))
    translated = for_connector(written)
    classes = set(zipfile.ZipFile(connector_jar()).namelist())
    for name in written:
        if oauth in written[name]:
            (word,) = (
                one for one in translated.pop(name).split() if "OAuth" in one or "Jwt" in one
            )
            assert word.startswith(SHADED_PACKAGE)
            assert word.replace(".", "/") + ".class" in classes
    assert translated.items() <= written.items()


def test_what_is_documented_for_oauthbearer_is_so_in_the_connector_jar() -> None:
    documented = f"{SHADED_PACKAGE}sasl.oauthbearer.allowed.urls"
    reader = f"{SHADED_PACKAGE}common.security.oauthbearer.internals.secured.ConfigurationUtils"
    with zipfile.ZipFile(connector_jar()) as jar:
        assert documented.encode() in jar.read(reader.replace(".", "/") + ".class")
        validator = f"{SHADED_PACKAGE}common.security.oauthbearer.ClientJwtValidator"
        assert b"jose4j" not in jar.read(validator.replace(".", "/") + ".class")
        assert not [name for name in jar.namelist() if "jose4j" in name]
        read_with = "com/fasterxml/jackson/databind/ObjectMapper.class"
        assert read_with not in jar.namelist()
    beside = [zipfile.ZipFile(path).namelist() for path in connector_jar().parent.glob("*.jar")]
    assert [read_with in names for names in beside].count(True) == 1
    page = Path(__file__).parents[2] / "docs" / "kafka.md"
    text = page.read_text(encoding="utf-8")
    assert f"-D{documented}=" in text
    assert f'"{validator.replace(SHADED_PACKAGE, "org.apache.kafka.")}"' in text


@given(st.text(), st.text(st.characters(codec="utf-8", exclude_characters="\r")))
def test_any_password_in_jaas_is_read_back(user: str, password: str) -> None:
    text = (
        f'{SCRAM} required username="{quoted_for_jaas(user)}"'
        f' password="{quoted_for_jaas(password)}";'
    )
    module = login_module(text)
    assert module is not None
    assert (module.name, module.options) == (SCRAM, {"username": user, "password": password})
    secure = SECURE | {"sasl.jaas.config": text}
    assert for_python(secure)["sasl_plain_password"] == password
    shaded = login_module(for_connector(secure)["sasl.jaas.config"])
    assert shaded is not None
    assert shaded.options == module.options


@given(st.text())
def test_what_is_no_jaas_entry_is_none_and_raises_nothing(text: str) -> None:
    module = login_module(text)
    assert module is None or text.rstrip().endswith(";")


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"sasl.mechanism": "GSSAPI"}, "sasl.mechanism GSSAPI"),
        (
            {"sasl.mechanism": "OAUTHBEARER"},
            "token.endpoint.url is not set, and sasl.jaas.config has no claims",
        ),
        (
            {
                "sasl.mechanism": "OAUTHBEARER",
                "sasl.oauthbearer.token.endpoint.url": "https://idp/token",
            },
            "knows no other way to get a token",
        ),
        ({"sasl.jaas.config": f"{SCRAM} required;"}, "says no username and password"),
        (
            {"security.protocol": "SASL_SSL", "ssl.truststore.location": "/x"},
            "type JKS is not read",
        ),
        (
            {
                "security.protocol": "SASL_SSL",
                "ssl.truststore.location": "/none.pem",
                "ssl.truststore.type": "PEM",
            },
            "there is no file /none.pem",
        ),
    ],
)
def test_what_the_python_client_cannot_do_is_said(properties: dict[str, str], said: str) -> None:
    with pytest.raises(UnusableError, match=said):
        for_python(SECURE | properties)


def test_a_token_is_made_of_the_claims_as_kafka_makes_it() -> None:
    """Options as in OAuthBearerUnsecuredLoginCallbackHandler; three parts, the last one empty."""
    options = {
        "unsecuredLoginStringClaim_sub": "joiner",
        "unsecuredLoginNumberClaim_age": "1.5",
        "unsecuredLoginListClaim_scope": ",a,b",
        "unsecuredLoginLifetimeSeconds": "60",
    }
    head, claims, signature = kafka_tokens.unsigned(options, 1_000).split(".")
    read = [json.loads(base64.urlsafe_b64decode(part + "==")) for part in (head, claims)]
    assert read == [
        {"alg": "none"},
        {"iat": 1_000, "exp": 1_060, "sub": "joiner", "age": 1.5, "scope": ["a", "b"]},
    ]
    assert signature == ""


def test_a_renewed_token_is_read_for_the_next_connection(tmp_path: Path) -> None:
    path = tmp_path / "a token"
    path.write_text("one\n")
    module = login_module("a.OAuthBearerLoginModule required;")
    assert module is not None
    token = kafka_tokens.token_of({"sasl.oauthbearer.token.endpoint.url": path.as_uri()}, module)
    assert token() == "one"
    path.write_text("two\n")
    assert token() == "two"


def test_the_known_properties_are_those_of_the_connectors_kafka() -> None:
    """Each name is a constant in Kafka's configuration classes, and so no invention."""
    constants = b""
    with zipfile.ZipFile(connector_jar()) as jar:
        for name in jar.namelist():
            if name.startswith(SHADED_PACKAGE.replace(".", "/")) and "Config" in name:
                constants += jar.read(name)
    assert [name for name in sorted(KNOWN) if name.encode() not in constants] == []
    assert {"isolation.level", "fetch.max.bytes"} <= KNOWN
    assert not kafka_properties.OF_CONNECTOR & KNOWN


def connector_jar() -> Path:
    (jar,) = (path for path in jar_paths("flink") if "connector-kafka" in path.name)
    return jar
