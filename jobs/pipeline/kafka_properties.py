"""Properties of the Kafka client: which ones may be set, and the forms other clients need.

Users write the properties as Kafka's own documentation shows them. Three things differ here:

* some are set by the connector or by keys of ours, and are refused with the key to use instead;
* the connector jar carries Kafka's classes under another package ("shaded"), so class names are
  translated (`for_connector`);
* the Python client of `preflight` and `audit` has other names for them (`for_python`).

Everything here is pure. Names and defaults: https://kafka.apache.org/documentation/#consumerconfigs
"""

from __future__ import annotations

import difflib
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KAFKA_PACKAGE = "org.apache.kafka."
#: Where flink-sql-connector-kafka keeps the classes of Kafka.
SHADED_PACKAGE = "org.apache.flink.kafka.shaded.org.apache.kafka."

_OFFSETS = "Flink keeps the offsets; with group_id they are committed at checkpoints"
#: Property -> what to do instead.
_REFUSED = {
    "bootstrap.servers": "use the key bootstrap_servers",
    "group.id": "use the key group_id",
    "client.id": "the connector makes one for each of its clients; set client.id.prefix",
    "enable.auto.commit": _OFFSETS,
    "auto.commit.interval.ms": _OFFSETS,
    "key.deserializer": "records are read as bytes",
    "value.deserializer": "records are read as bytes",
    "partition.discovery.interval.ms": "use the key partition_discovery",
}
_CHOICES = {
    "isolation.level": ("read_uncommitted", "read_committed"),
    "security.protocol": ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    "auto.offset.reset": ("earliest", "latest", "none"),
}
#: Properties whose values are names of classes, or lists of them.
_CLASSES = frozenset(
    {
        "config.providers",
        "interceptor.classes",
        "metric.reporters",
        "partition.assignment.strategy",
        "sasl.client.callback.handler.class",
        "sasl.login.callback.handler.class",
        "sasl.login.class",
        "sasl.oauthbearer.jwt.retriever.class",
        "sasl.oauthbearer.jwt.validator.class",
        "security.providers",
        "ssl.engine.factory.class",
    }
)
#: The consumer properties of Kafka 4.2, and the ones that the connector adds.
_KNOWN = """
    allow.auto.create.topics auto.commit.interval.ms auto.offset.reset bootstrap.servers check.crcs
    client.dns.lookup client.id client.rack config.providers connections.max.idle.ms
    default.api.timeout.ms enable.auto.commit enable.metrics.push exclude.internal.topics
    fetch.max.bytes fetch.max.wait.ms fetch.min.bytes group.id group.instance.id group.protocol
    group.remote.assignor heartbeat.interval.ms interceptor.classes isolation.level
    key.deserializer max.partition.fetch.bytes max.poll.interval.ms max.poll.records
    metadata.max.age.ms metadata.recovery.rebootstrap.trigger.ms metadata.recovery.strategy
    metric.reporters metrics.num.samples metrics.recording.level metrics.sample.window.ms
    partition.assignment.strategy receive.buffer.bytes reconnect.backoff.max.ms
    reconnect.backoff.ms request.timeout.ms retry.backoff.max.ms retry.backoff.ms
    sasl.client.callback.handler.class sasl.jaas.config sasl.kerberos.kinit.cmd
    sasl.kerberos.min.time.before.relogin sasl.kerberos.service.name
    sasl.kerberos.ticket.renew.jitter sasl.kerberos.ticket.renew.window.factor
    sasl.login.callback.handler.class sasl.login.class sasl.login.connect.timeout.ms
    sasl.login.read.timeout.ms sasl.login.refresh.buffer.seconds
    sasl.login.refresh.min.period.seconds sasl.login.refresh.window.factor
    sasl.login.refresh.window.jitter sasl.login.retry.backoff.max.ms sasl.login.retry.backoff.ms
    sasl.mechanism sasl.oauthbearer.assertion.algorithm sasl.oauthbearer.assertion.claim.aud
    sasl.oauthbearer.assertion.claim.exp.seconds sasl.oauthbearer.assertion.claim.iss
    sasl.oauthbearer.assertion.claim.jti.include sasl.oauthbearer.assertion.claim.nbf.seconds
    sasl.oauthbearer.assertion.claim.sub sasl.oauthbearer.assertion.file
    sasl.oauthbearer.assertion.private.key.file sasl.oauthbearer.assertion.private.key.passphrase
    sasl.oauthbearer.assertion.template.file sasl.oauthbearer.client.credentials.client.id
    sasl.oauthbearer.client.credentials.client.secret sasl.oauthbearer.clock.skew.seconds
    sasl.oauthbearer.expected.audience sasl.oauthbearer.expected.issuer
    sasl.oauthbearer.header.urlencode sasl.oauthbearer.jwks.endpoint.refresh.ms
    sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms
    sasl.oauthbearer.jwks.endpoint.retry.backoff.ms sasl.oauthbearer.jwks.endpoint.url
    sasl.oauthbearer.jwt.retriever.class sasl.oauthbearer.jwt.validator.class
    sasl.oauthbearer.scope sasl.oauthbearer.scope.claim.name sasl.oauthbearer.sub.claim.name
    sasl.oauthbearer.token.endpoint.url security.protocol security.providers send.buffer.bytes
    session.timeout.ms socket.connection.setup.timeout.max.ms socket.connection.setup.timeout.ms
    ssl.cipher.suites ssl.enabled.protocols ssl.endpoint.identification.algorithm
    ssl.engine.factory.class ssl.key.password ssl.keymanager.algorithm
    ssl.keystore.certificate.chain ssl.keystore.key ssl.keystore.location ssl.keystore.password
    ssl.keystore.type ssl.protocol ssl.provider ssl.secure.random.implementation
    ssl.trustmanager.algorithm ssl.truststore.certificates ssl.truststore.location
    ssl.truststore.password ssl.truststore.type value.deserializer
"""
KNOWN = frozenset(_KNOWN.split())
OF_CONNECTOR = frozenset(
    {"client.id.prefix", "commit.offsets.on.checkpoint", "register.consumer.metrics"}
)
_SECRET = re.compile(
    r"password|passphrase|secret|jaas|token|ssl\.keystore\.key|credential", re.IGNORECASE
)


class UnusableError(Exception):
    """The Python client cannot take these properties; the message says which, and why."""


@dataclass(frozen=True)
class LoginModule:
    """The entry of a `sasl.jaas.config`. `rest`: its text after the class name."""

    name: str
    options: dict[str, str]
    rest: str


def is_secret(name: str) -> bool:
    """Whether a property holds a secret, to judge by its name."""
    return _SECRET.search(name) is not None


def check(
    properties: Mapping[str, str], *, committed: bool, wrong: Callable[[str, str], Exception]
) -> None:
    """Raises `wrong(property, text)` for a property that cannot have the effect it asks for.

    `committed`: whether reading begins at the committed offsets.
    """
    for name, value in properties.items():
        if name in _REFUSED:
            raise wrong(name, f"may not be set here: {_REFUSED[name]}")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise wrong(name, f"expected one of {', '.join(_CHOICES[name])}; got {value!r}")
        if name not in KNOWN | OF_CONNECTOR:
            # plug-in classes read properties of their own, so only a likely misspelling is an error
            near = difflib.get_close_matches(name, KNOWN | OF_CONNECTOR, 1, cutoff=0.9)
            if near:
                raise wrong(name, f"there is no such property; did you mean {near[0]}?")
    if "auto.offset.reset" in properties and not committed:
        raise wrong(
            "auto.offset.reset",
            "use the key start; this is for partitions without a committed "
            'offset, with start = "committed"',
        )
    _check_security(properties, wrong)


def _check_security(properties: Mapping[str, str], wrong: Callable[[str, str], Exception]) -> None:
    protocol = properties.get("security.protocol", "PLAINTEXT")
    sasl = [name for name in properties if name.startswith("sasl.")]
    if sasl and not protocol.startswith("SASL_"):
        raise wrong(
            "security.protocol",
            f"expected SASL_SSL or SASL_PLAINTEXT, since {sasl[0]} is set; it is {protocol}",
        )
    if any(name.startswith("ssl.") for name in properties) and not protocol.endswith("SSL"):
        raise wrong("security.protocol", f"expected SSL or SASL_SSL for ssl.*; it is {protocol}")
    if "sasl.jaas.config" not in properties:
        return
    module = login_module(properties["sasl.jaas.config"])
    if module is None:
        raise wrong(
            "sasl.jaas.config",
            'expected `<login module class> required <name>="<value>" ...;` with one login module '
            "and a semicolon at its end",
        )
    mechanism = properties.get("sasl.mechanism", "GSSAPI")
    for kind, mechanisms in _LOGIN_MODULES.items():
        if module.name.endswith(f".{kind}") and mechanism not in mechanisms:
            raise wrong(
                "sasl.mechanism",
                f"expected {' or '.join(mechanisms)} with {kind}; it is {mechanism}",
            )


_LOGIN_MODULES = {
    "PlainLoginModule": ("PLAIN",),
    "ScramLoginModule": ("SCRAM-SHA-256", "SCRAM-SHA-512"),
    "OAuthBearerLoginModule": ("OAUTHBEARER",),
    "Krb5LoginModule": ("GSSAPI",),
}

# -- JAAS ------------------------------------------------------------------------------------------

_QUOTED = r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'"
_ENTRY = re.compile(
    rf"\s*(?P<name>[\w.$]+)(?P<rest>\s+(?:required|requisite|sufficient|optional)\b"
    rf"(?P<options>(?:\s+[\w.-]+\s*=\s*(?:{_QUOTED}|[^\s;\"']+))*)\s*;\s*)",
    re.IGNORECASE,
)
_OPTION = re.compile(rf"([\w.-]+)\s*=\s*({_QUOTED}|[^\s;\"']+)")


def login_module(jaas: str) -> LoginModule | None:
    """The one entry of a JAAS configuration; None when it is not one."""
    entry = _ENTRY.fullmatch(jaas)
    if entry is None:
        return None
    options = {name: _unquoted(value) for name, value in _OPTION.findall(entry["options"])}
    return LoginModule(entry["name"], options, entry["rest"])


def quoted_for_jaas(text: str) -> str:
    """`text` as it stands between the double quotes of a JAAS value."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _unquoted(value: str) -> str:
    if value[:1] not in ('"', "'"):
        return value
    return re.sub(
        r"\\(.)", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), value[1:-1]
    )


# -- for the connector -----------------------------------------------------------------------------


def for_connector(properties: Mapping[str, str], package: str = SHADED_PACKAGE) -> dict[str, str]:
    """The same properties with Kafka's classes under the connector's `package`.

    Classes of others (Kerberos, a cloud's login module) keep their names.
    """

    def translated(name: str, value: str) -> str:
        if name == "sasl.jaas.config":
            module = login_module(value)
            return value if module is None else _moved(module.name, package) + module.rest
        if name in _CLASSES:
            return ",".join(_moved(one.strip(), package) for one in value.split(","))
        return value

    return {name: translated(name, value) for name, value in properties.items()}


def _moved(class_name: str, package: str) -> str:
    if not class_name.startswith(KAFKA_PACKAGE):
        return class_name
    return package + class_name.removeprefix(KAFKA_PACKAGE)


# -- for the Python client -------------------------------------------------------------------------


def for_python(properties: Mapping[str, str]) -> dict[str, Any]:
    """What `kafka.KafkaConsumer` (kafka-python) is to be given for these properties.

    Raises UnusableError for a mechanism or a key store that it does not know.
    """
    protocol = properties.get("security.protocol", "PLAINTEXT")
    options: dict[str, Any] = {"security_protocol": protocol}
    if "isolation.level" in properties:
        options["isolation_level"] = properties["isolation.level"]
    if protocol.startswith("SASL_"):
        options |= _sasl(properties)
    if protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(properties)
        options["ssl_check_hostname"] = options["ssl_context"].check_hostname
    return options


def _sasl(properties: Mapping[str, str]) -> dict[str, Any]:
    mechanism = properties.get("sasl.mechanism", "GSSAPI")
    if mechanism not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        raise UnusableError(f"sasl.mechanism {mechanism} is not one that the Python client takes")
    module = login_module(properties.get("sasl.jaas.config", ""))
    if module is None or not {"username", "password"} <= module.options.keys():
        raise UnusableError("sasl.jaas.config says no username and password")
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": module.options["username"],
        "sasl_plain_password": module.options["password"],
    }


def _ssl_context(properties: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    # Kafka: an empty algorithm switches the check of the host name off
    context.check_hostname = bool(
        properties.get("ssl.endpoint.identification.algorithm", "https").strip()
    )
    try:
        if "ssl.truststore.certificates" in properties:
            context = _trusting(context, cadata=properties["ssl.truststore.certificates"])
        elif "ssl.truststore.location" in properties:
            _only_pem(properties, "ssl.truststore")
            context = _trusting(context, cafile=properties["ssl.truststore.location"])
        if "ssl.keystore.key" in properties or "ssl.keystore.certificate.chain" in properties:
            raise UnusableError(
                "ssl.keystore.key is not taken by the Python client; put key and certificates"
                " into a file, with ssl.keystore.type = PEM and ssl.keystore.location"
            )
        if "ssl.keystore.location" in properties:
            _only_pem(properties, "ssl.keystore")
            context.load_cert_chain(
                properties["ssl.keystore.location"], password=properties.get("ssl.key.password")
            )
    except (OSError, ssl.SSLError) as error:
        raise UnusableError(f"ssl.*: {error}") from None
    return context


def _trusting(default: ssl.SSLContext, **certificates: str) -> ssl.SSLContext:
    """A context that trusts these certificates, and not those of the system."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = default.check_hostname
    context.load_verify_locations(**certificates)
    return context


def _only_pem(properties: Mapping[str, str], store: str) -> None:
    kind = properties.get(f"{store}.type", "JKS")
    if kind != "PEM":
        raise UnusableError(f"{store}.type {kind} is not read by the Python client; it takes PEM")
    if not Path(properties[f"{store}.location"]).is_file():
        raise UnusableError(f"{store}.location: there is no file {properties[f'{store}.location']}")
