"""Every way to log in to a `SecuredBroker` that is tried, and the wrong ones, as users write them.

Secrets are references to the environment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.secured import USERS, SecuredBroker

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


def trusting(login: Login, store: Path) -> Login:
    """With a trust store in PEM."""
    more = {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(store)}
    return Login(login.listener, {**login.properties, **more}, login.secrets)


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
    """All that work."""
    ca = broker.authority.certificate
    return {
        "PLAIN": plain(),
        "SCRAM-SHA-256": scram(256),
        "SCRAM-SHA-512": scram(),
        "OAUTHBEARER, a token in a file": token(broker.tokens.token("joiner")),
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
    login: Login,
) -> Path:
    """A pipeline over `<topics>-features` and `<topics>-actions`, up to their ends."""
    text = '[actions.click]\nwindow = "1s"\n'
    for stream in ("features", "actions"):
        text += f'[sources.{stream}]\ntype = "kafka"\ntopic = "{topics}-{stream}"\n'
        text += f'bootstrap_servers = "{broker.servers(login.listener)}"\nend = "latest"\n'
        text += f"[sources.{stream}.properties]\n"
        text += "".join(
            f"{json.dumps(name)} = {json.dumps(value)}\n"
            for name, value in login.properties.items()
        )
    text += f'[output]\npath = "{folder}/out"\n'
    path = folder / "pipeline.toml"
    path.write_text(text)
    return path


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
