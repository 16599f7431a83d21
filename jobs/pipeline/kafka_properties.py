"""Properties of the Kafka client: which ones may be set, and the forms other clients need.

Users write the properties as Kafka's own documentation shows them. Three things differ here:

* some are set by the connector or by keys of ours, and are refused with the key to use instead;
* the connector jar carries Kafka's classes under another package ("shaded"), so class names are
  translated (`for_connector`);
* the Python client of `preflight` and `audit` has other names for them (`kafka_python`).

Everything here is pure. Names and defaults: https://kafka.apache.org/documentation/#consumerconfigs
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping

from jobs.pipeline.jaas import login_module

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
    r"password|passphrase|secret|jaas|token|ssl\.keystore\.key|credential|user\.info",
    re.IGNORECASE,
)


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


#: Kafka takes the content of a store in the property itself when its type is PEM.
_TEXTS_OF_STORES = (
    ("ssl.truststore", "certificates"),
    ("ssl.keystore", "key"),
    ("ssl.keystore", "certificate.chain"),
)


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
    for store, text in _TEXTS_OF_STORES:
        kind = properties.get(f"{store}.type", "JKS")
        if f"{store}.{text}" in properties and kind != "PEM":
            raise wrong(f"{store}.type", f"expected PEM, since {store}.{text} is set; it is {kind}")
    for store in ("ssl.truststore", "ssl.keystore"):
        if properties.get(f"{store}.type") == "PEM" and f"{store}.password" in properties:
            cure = (
                "; that of an encrypted key is ssl.key.password" if store == "ssl.keystore" else ""
            )
            raise wrong(f"{store}.password", f"a store of the type PEM has no password{cure}")
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
