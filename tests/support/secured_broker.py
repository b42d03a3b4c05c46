"""A broker as it is sold: TLS, SASL with every mechanism, client certificates, and an authorizer that allows nothing.

`direct` is a listener without any of it, for the operator of the broker alone.
"""

import base64
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives import serialization

from backstop.dev.broker import Broker, LocalKafka
from backstop.dev.broker.jvm import NodeOptions
from backstop.dev.broker.node import HOST, draw_ports

USERS = ("worker", "serve", "projection", "outgoing", "operator", "stranger")
PASSWORD = "correct horse"
ITERATIONS = 4_096
LIFETIME_S = 3_600
_MODULES = "org.apache.kafka.common.security"


def password_of(user: str) -> str:
    return f"{PASSWORD} {user}"


@dataclass(frozen=True, slots=True)
class SecuredBroker:
    broker: Broker
    folder: Path
    sasl_address: str
    mtls_address: str

    def settings(self, **more: str) -> dict[str, str]:
        """Variables of a process that takes the SASL listener."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.sasl_address,
            "BACKSTOP_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "BACKSTOP_KAFKA_SSL_CAFILE": str(self.folder / "ca.pem"),
            **more,
        }

    def by_password(self, user: str, mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        return self.settings(
            BACKSTOP_KAFKA_SASL_MECHANISM=mechanism,
            BACKSTOP_KAFKA_SASL_USERNAME=user,
            BACKSTOP_KAFKA_SASL_PASSWORD=password_of(user),
        )

    def by_certificate(self, user: str) -> dict[str, str]:
        return self.settings(
            KAFKA_BOOTSTRAP_SERVERS=self.mtls_address,
            BACKSTOP_KAFKA_SECURITY_PROTOCOL="SSL",
            BACKSTOP_KAFKA_SSL_CERTFILE=str(self.folder / f"{user}.pem"),
            BACKSTOP_KAFKA_SSL_KEYFILE=str(self.folder / f"{user}.key"),
        )

    def by_token(self, token_url: str, user: str) -> dict[str, str]:
        return self.settings(
            BACKSTOP_KAFKA_SASL_MECHANISM="OAUTHBEARER",
            BACKSTOP_KAFKA_OAUTH_TOKEN_URL=token_url,
            BACKSTOP_KAFKA_OAUTH_CLIENT_ID=user,
            BACKSTOP_KAFKA_OAUTH_CLIENT_SECRET=password_of(user),
            BACKSTOP_KAFKA_OAUTH_SCOPE="kafka",
            BACKSTOP_KAFKA_OAUTH_EXTENSIONS="logicalCluster=lkc-1,identityPoolId=pool-1",
        )

    def allow(self, principal: str, grants: Sequence[tuple[ResourceType, str, str, AclOperation]]) -> None:
        """Allow these: kind of resource, `PREFIXED` or `LITERAL`, name, operation."""
        admin = AdminClient({"bootstrap.servers": self.broker.direct})
        bindings = [
            AclBinding(
                kind, name, ResourcePatternType[pattern], f"User:{principal}", "*", operation, AclPermissionType.ALLOW
            )
            for kind, pattern, name, operation in grants
        ]
        for done in admin.create_acls(bindings).values():
            done.result()


@contextmanager
def secured_broker(kafka: LocalKafka, folder: Path) -> Iterator[SecuredBroker]:
    """Start it, with a SCRAM password and a certificate for each of `USERS`."""
    _write_certificates(folder)
    ports, mtls = draw_ports(), draw_ports().client
    listeners = f"CLIENT://{HOST}:{ports.client},DIRECT://{HOST}:{ports.direct},CONTROLLER://{HOST}:{ports.controller}"
    advertised = f"CLIENT://localhost:{ports.client},DIRECT://{HOST}:{ports.direct}"
    users = " ".join(f'user_{user}="{password_of(user)}"' for user in USERS)
    options = {
        "listeners": f"{listeners},MTLS://{HOST}:{mtls}",
        "advertised.listeners": f"{advertised},MTLS://localhost:{mtls}",
        "listener.security.protocol.map": "CLIENT:SASL_SSL,MTLS:SSL,DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listener.name.mtls.ssl.client.auth": "required",
        "listener.name.mtls.ssl.principal.mapping.rules": r"RULE:^.*CN=([^,]+).*$/$1/",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        "listener.name.client.plain.sasl.jaas.config": f"{_MODULES}.plain.PlainLoginModule required {users};",
        **{
            f"listener.name.client.{name}.sasl.jaas.config": f"{_MODULES}.scram.ScramLoginModule required;"
            for name in ("scram-sha-256", "scram-sha-512")
        },
        # Without a validator of its own Kafka takes unsigned tokens, for development.
        "listener.name.client.oauthbearer.sasl.jaas.config": f"{_MODULES}.oauthbearer.OAuthBearerLoginModule required "
        'unsecuredLoginStringClaim_sub="broker";',
        "ssl.keystore.type": "PEM", "ssl.keystore.location": str(folder / "server.pem"),
        "ssl.truststore.type": "PEM", "ssl.truststore.location": str(folder / "ca.pem"),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }  # fmt: skip
    node = NodeOptions(advertised=f"localhost:{ports.client}", overrides=options)
    broker = Broker(kafka, folder / "node", ports=ports, options=node)
    broker.start()
    try:
        _make_passwords(broker)
        yield SecuredBroker(broker, folder, f"localhost:{ports.client}", f"localhost:{mtls}")
    finally:
        broker.stop()


def _write_certificates(folder: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    server = authority.issue_cert("localhost", HOST)
    chain = b"".join(part.bytes() for part in server.cert_chain_pems)
    # Kafka reads keys in PKCS#8 alone.
    key = serialization.load_pem_private_key(server.private_key_pem.bytes(), None)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(pem + chain)
    for user in USERS:
        own = authority.issue_cert(f"{user}.example", common_name=user)  # Java reads no certificate without names
        own.cert_chain_pems[0].write_to_path(str(folder / f"{user}.pem"))
        own.private_key_pem.write_to_path(str(folder / f"{user}.key"))


def _make_passwords(broker: Broker) -> None:
    admin = AdminClient({"bootstrap.servers": broker.direct})
    for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
        made: list[Any] = [
            UserScramCredentialUpsertion(user, ScramCredentialInfo(mechanism, ITERATIONS), password_of(user).encode())
            for user in USERS
        ]
        for done in admin.alter_user_scram_credentials(made).values():
            done.result()


@dataclass(slots=True)
class TokenEndpoint:
    """An identity provider's token endpoint, as far as client credentials go."""

    url: str
    asked: list[Mapping[str, Any]] = field(default_factory=list)


@contextmanager
def token_endpoint() -> Iterator[TokenEndpoint]:
    """Serve unsigned tokens to the `USERS` that know their passwords."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            name, _, secret = (
                base64.b64decode(self.headers["authorization"].removeprefix("Basic ")).decode().partition(":")
            )
            user, given = urllib.parse.unquote(name), urllib.parse.unquote(secret)
            endpoint.asked.append({"user": user, **form})
            if given != password_of(user) or form.get("grant_type") != ["client_credentials"]:
                self._answer(401, {"error": "invalid_client"})
                return
            now_s = int(time.time())
            claims = {"sub": user, "iat": now_s, "exp": now_s + LIFETIME_S, "scope": form["scope"]}
            token = ".".join([_part({"alg": "none"}), _part(claims), ""])
            self._answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": LIFETIME_S})

        def _answer(self, status: int, value: Mapping[str, Any]) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer((HOST, 0), Handler)
    endpoint = TokenEndpoint(f"http://{HOST}:{server.server_address[1]}/token")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _part(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
