"""A broker as people protect it: listeners with logins and TLS, and rights.

Certificates and tokens are made anew for each broker.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourceType,
)

from services.kafka_broker import KafkaBroker
from services.kafka_listeners import Listener, of_users

#: Password by user name. `joiner` may do everything, the others what tests allow them.
USERS = {"joiner": "Xq7CorrectHorse", "stranger": "Nv3StapleBattery"}
KEY_PASSWORD = "Tm5KeyOfTheKey"
CLIENT_SECRET = "Vk9ClientCredential"
STORE_PASSWORD = "Rb8TrustNobody"
_OAUTH = "org.apache.kafka.common.security.oauthbearer."


@dataclass(frozen=True)
class Stores:
    """Files of one owner: key and certificate, the same with an encrypted key, and each alone."""

    plain: Path
    encrypted: Path
    key: str
    chain: str


class Authority:
    """A certificate authority, and the stores that it has made.

    `certificate` is a file in PEM, `java` one in PKCS12, with `STORE_PASSWORD`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.certificate = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.certificate))
        self.java = folder / f"{name}.p12"
        certificate = x509.load_pem_x509_certificate(self._ca.cert_pem.bytes())
        self.java.write_bytes(
            pkcs12.serialize_java_truststore(
                [pkcs12.PKCS12Certificate(certificate, b"ca")],
                BestAvailableEncryption(STORE_PASSWORD.encode()),
            )
        )

    def issue(self, name: str, host: str, *, expired: bool = False) -> Stores:
        """A certificate for a host that is valid, or was until yesterday."""
        now = datetime.now(timezone.utc)
        start, end = (-2, -1) if expired else (-1, 1)
        leaf = self._ca.issue_cert(
            host,
            common_name=name,
            not_before=now + timedelta(days=start),
            not_after=now + timedelta(days=end),
        )
        key = load_pem_private_key(leaf.private_key_pem.bytes(), None)

        def text(encryption: KeySerializationEncryption) -> str:
            # Kafka reads no other form of a key
            return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()

        stores = Stores(
            self._folder / f"{name}.pem",
            self._folder / f"{name}-encrypted.pem",
            text(NoEncryption()),
            "".join(one.bytes().decode() for one in leaf.cert_chain_pems),
        )
        encrypted = text(BestAvailableEncryption(KEY_PASSWORD.encode()))
        stores.plain.write_text(stores.key + stores.chain)
        stores.encrypted.write_text(encrypted + stores.chain)
        return stores


class Tokens:
    """Who signs tokens for OAUTHBEARER; `keys` is the file that a broker checks them with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        numbers = self._key.public_key().public_numbers()
        entry = {
            "kty": "RSA",
            "kid": "1",
            "alg": "RS256",
            "use": "sig",
            "n": _base64(numbers.n.to_bytes(256, "big")),
            "e": _base64(numbers.e.to_bytes(3, "big")),
        }
        self.keys = folder / "jwks.json"
        self.keys.write_text(json.dumps({"keys": [entry]}))

    def token(self, user: str, *, expired: bool = False) -> Path:
        """A file with a token for a user."""
        now = int(time.time())
        claims = {"sub": user, "iat": now - 7200, "exp": now + (-3600 if expired else 3600)}
        head = {"alg": "RS256", "kid": "1", "typ": "JWT"}
        text = ".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
        signature = self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        path = self._folder / f"{user}{'-expired' if expired else ''}.jwt"
        path.write_text(f"{text}.{_base64(signature)}")
        return path


class TokenEndpoint:
    """A token endpoint on loopback that gives `joiner` a token, for `CLIENT_SECRET`."""

    def __init__(self, tokens: Tokens) -> None:
        login = base64.b64encode(f"joiner:{CLIENT_SECRET}".encode()).decode()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                good = self.headers["Authorization"] == f"Basic {login}"
                good &= "grant_type=client_credentials" in form and "scope=kafka" in form
                token = tokens.token("joiner").read_text()
                text = json.dumps({"access_token": token, "expires_in": 3600}) if good else "{}"
                self.send_response(200 if good else 401)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class SecuredBroker(KafkaBroker):
    """A broker with rights, whose listener without a login may do everything.

    Its other listeners: `LOGIN` (SASL_PLAINTEXT: PLAIN, SCRAM, OAUTHBEARER with signed tokens),
    `TLS` (SASL_SSL: PLAIN, SCRAM, OAUTHBEARER with unsigned tokens), `MUTUAL` (SSL, with a client's
    certificate), and with a wrong certificate `EXPIRED` and `ELSEWHERE` (SSL).
    """

    def __init__(self, folder: Path) -> None:
        certificates = folder / "certificates"
        certificates.mkdir(parents=True)
        self.authority = Authority(certificates, "ca")
        self.other_authority = Authority(certificates, "other-ca")
        self.client = self.authority.issue("joiner", "joiner.example")
        self.expired_client = self.authority.issue("old", "joiner.example", expired=True)
        self.tokens = Tokens(certificates)
        self.token_endpoint = TokenEndpoint(self.tokens)
        here = self.authority.issue("here", "127.0.0.1")
        expired = self.authority.issue("expired", "127.0.0.1", expired=True)
        elsewhere = self.authority.issue("elsewhere", "kafka.example")
        users = of_users(USERS)
        bearer = {
            "sasl.enabled.mechanisms": f"{users['sasl.enabled.mechanisms']},OAUTHBEARER",
            "oauthbearer.sasl.jaas.config": f"{_OAUTH}OAuthBearerLoginModule required;",
        }
        signed = {
            "oauthbearer.sasl.server.callback.handler.class": (
                f"{_OAUTH}OAuthBearerValidatorCallbackHandler"
            ),
            "sasl.oauthbearer.jwks.endpoint.url": self.tokens.keys.as_uri(),
        }
        mutual = {
            "ssl.client.auth": "required",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.certificate),
        }
        super().__init__(
            folder,
            users=USERS,
            listeners=[
                Listener("LOGIN", "SASL_PLAINTEXT", {**users, **bearer, **signed}),
                Listener("TLS", "SASL_SSL", {**users, **bearer, **_store(here)}),
                Listener("MUTUAL", "SSL", {**_store(here), **mutual}),
                Listener("EXPIRED", "SSL", _store(expired)),
                Listener("ELSEWHERE", "SSL", _store(elsewhere)),
            ],
            properties={
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS;User:joiner",
                "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/",
            },
            java_options=[
                "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=" + self.tokens.keys.as_uri()
            ],
        )

    def stop(self) -> None:
        super().stop()
        self.token_endpoint.stop()

    def allow(self, user: str, operation: str, kind: str, name: str) -> None:
        """Give a user a right, such as `READ` on the `TOPIC` of a name."""
        acl = ACL(
            principal=f"User:{user}",
            host="*",
            operation=ACLOperation[operation],
            permission_type=ACLPermissionType.ALLOW,
            resource_pattern=ResourcePattern(ResourceType[kind], name),
        )
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        try:
            admin.create_acls([acl])
        finally:
            admin.close()


def _store(stores: Stores) -> dict[str, str]:
    return {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(stores.plain)}
