"""Every way to log in to a `SecuredBroker` that is tried, and the wrong ones, as users write them.

Secrets are references to the environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.secured import CLIENT_SECRET, STORE_PASSWORD, USERS, SecuredBroker

_MODULES = "org.apache.kafka.common.security."
_OAUTH = f"{_MODULES}oauthbearer."


@dataclass(frozen=True)
class Login:
    """A listener, the properties for it, and the secrets by the variables that hold them."""

    listener: str
    properties: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)


def password(mechanism: str, module: str, *, user: str = "joiner", word: str = "") -> Login:
    """SASL_PLAINTEXT with a password: the user's own, or a wrong one."""
    jaas = f'{_MODULES}{module} required username="{user}" password="${{KAFKA_PASSWORD}}";'
    return Login(
        "LOGIN",
        {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": mechanism,
            "sasl.jaas.config": jaas,
        },
        {"KAFKA_PASSWORD": word or USERS[user]},
    )


def plain(**keys: str) -> Login:
    """PLAIN."""
    return password("PLAIN", "plain.PlainLoginModule", **keys)


def scram(bits: int = 512, **keys: str) -> Login:
    """SCRAM."""
    return password(f"SCRAM-SHA-{bits}", "scram.ScramLoginModule", **keys)


def token(path: Path) -> Login:
    """OAUTHBEARER with a token in a file."""
    return Login(
        "LOGIN",
        {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "OAUTHBEARER",
            "sasl.jaas.config": f"{_OAUTH}OAuthBearerLoginModule required;",
            "sasl.login.callback.handler.class": f"{_OAUTH}OAuthBearerLoginCallbackHandler",
            "sasl.oauthbearer.jwt.validator.class": f"{_OAUTH}ClientJwtValidator",
            "sasl.oauthbearer.token.endpoint.url": path.as_uri(),
        },
        {"TOKEN": path.read_text()},
    )


def token_endpoint(url: str, secret: str = CLIENT_SECRET) -> Login:
    """OAUTHBEARER with a token endpoint."""
    credentials = "sasl.oauthbearer.client.credentials.client."
    return Login(
        "LOGIN",
        {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "OAUTHBEARER",
            "sasl.jaas.config": f"{_OAUTH}OAuthBearerLoginModule required;",
            "sasl.login.callback.handler.class": f"{_OAUTH}OAuthBearerLoginCallbackHandler",
            "sasl.oauthbearer.jwt.validator.class": f"{_OAUTH}ClientJwtValidator",
            "sasl.oauthbearer.token.endpoint.url": url,
            f"{credentials}id": "joiner",
            f"{credentials}secret": "${CLIENT_SECRET}",
            "sasl.oauthbearer.scope": "kafka",
        },
        {"CLIENT_SECRET": secret},
    )


def unsigned_token(listener: str = "TLS") -> Login:
    """OAUTHBEARER with claims in the configuration."""
    jaas = f'{_OAUTH}OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="joiner";'
    protocol = "SASL_SSL" if listener == "TLS" else "SASL_PLAINTEXT"
    return Login(
        listener,
        {
            "security.protocol": protocol,
            "sasl.mechanism": "OAUTHBEARER",
            "sasl.jaas.config": jaas,
        },
    )


def over_tls(login: Login) -> Login:
    """The same login at the listener `TLS`."""
    properties = {**login.properties, "security.protocol": "SASL_SSL"}
    return Login("TLS", properties, login.secrets)


def tls(listener: str) -> Login:
    """TLS without a login."""
    return Login(listener, {"security.protocol": "SSL"})


def trusting(login: Login, store: Path, word: str = STORE_PASSWORD) -> Login:
    """With a trust store, PEM or PKCS12."""
    more = {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(store)}
    secrets = dict(login.secrets)
    if store.suffix == ".p12":
        more |= {"ssl.truststore.type": "PKCS12", "ssl.truststore.password": "${STORE_PASSWORD}"}
        secrets["STORE_PASSWORD"] = word
    return Login(login.listener, {**login.properties, **more}, secrets)


def presenting(login: Login, store: Path, word: str = "") -> Login:
    """With a key and its certificate in a file; `word` is the password of the key."""
    more = {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(store)}
    secrets = dict(login.secrets)
    if word:
        more["ssl.key.password"] = "${KEY_PASSWORD}"
        secrets["KEY_PASSWORD"] = word
    return Login(login.listener, {**login.properties, **more}, secrets)


def in_the_environment(broker: SecuredBroker) -> Login:
    """Key, certificates and authority as texts."""
    return Login(
        "MUTUAL",
        {
            "security.protocol": "SSL",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.certificates": "${CA}",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": "${CHAIN}",
            "ssl.keystore.key": "${KEY}",
        },
        {
            "CA": broker.authority.certificate.read_text(),
            "CHAIN": broker.client.chain,
            "KEY": broker.client.key,
        },
    )


def good(broker: SecuredBroker) -> dict[str, Login]:
    """All that work, for the job, the preflight and the audit."""
    ca = broker.authority.certificate
    return {
        "PLAIN": plain(),
        "SCRAM-SHA-256": scram(256),
        "SCRAM-SHA-512": scram(),
        "OAUTHBEARER, a token in a file": token(broker.tokens.token("joiner")),
        "OAUTHBEARER, a token endpoint": token_endpoint(broker.token_endpoint.url),
        "TLS with PLAIN": trusting(over_tls(plain()), ca),
        "TLS with SCRAM-SHA-512": trusting(over_tls(scram()), ca),
        "TLS with OAUTHBEARER, unsigned": trusting(unsigned_token(), ca),
        "a client's certificate": trusting(presenting(tls("MUTUAL"), broker.client.plain), ca),
        "a client's certificate in the environment": in_the_environment(broker),
    }


def configuration(
    broker: SecuredBroker,
    folder: Path,
    topics: str,
    features: Login,
    actions: Login | None = None,
    keys: str = 'end = "latest"',
) -> Path:
    """A pipeline over `<topics>-features` and `<topics>-actions`; `keys` are those of a source."""
    text = '[actions.click]\nwindow = "1s"\n'
    for stream, login in (("features", features), ("actions", actions or features)):
        text += f'[sources.{stream}]\ntype = "kafka"\ntopic = "{topics}-{stream}"\n'
        text += f'bootstrap_servers = "{broker.servers(login.listener)}"\n{keys}\n'
        text += f"[sources.{stream}.properties]\n"
        text += "".join(
            f"{json.dumps(name)} = {json.dumps(value)}\n"
            for name, value in login.properties.items()
        )
    text += f'[output]\npath = "{folder}/out"\n'
    path = folder / "pipeline.toml"
    path.write_text(text)
    return path


def java_options(logins: Iterable[Login]) -> dict[str, str]:
    """The environment in which jobs may get their tokens."""
    key = "sasl.oauthbearer.token.endpoint.url"
    urls = ",".join(login.properties[key] for login in logins if key in login.properties)
    name = "org.apache.flink.kafka.shaded.org.apache.kafka.sasl.oauthbearer.allowed.urls"
    return {"JAVA_TOOL_OPTIONS": f"-D{name}={urls}"}


def found_in(secrets: Mapping[str, str], text: str) -> list[str]:
    """The names of the secrets that a text has in it; a certificate is none."""
    found = []
    for name, secret in secrets.items():
        if name in ("CA", "CHAIN"):
            continue
        # of a key, each line: logs break it up
        parts = [part for part in secret.splitlines() if part and not part.startswith("-----")]
        if any(part in text for part in parts):
            found.append(name)
    return found


def found_below(secrets: Mapping[str, str], folder: Path) -> list[str]:
    """The files below a folder that have a secret in them."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in files if found_in(secrets, path.read_bytes().decode("latin-1"))]


def like(line: str, text: str) -> bool:
    """Whether a text ends with a line, in which ` *` stands for anything."""
    return re.search(re.escape(line).replace(r"\ \*", " .+") + "$", text) is not None
