"""Tokens for the brokers: fetched once, renewed before they expire, and what is told where there is none."""

import asyncio
import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from backstop.runtime.errors import ConfigurationError
from backstop.runtime.kafka.tokens import BrokerToken, BrokerTokens, TokenError, tokens_of
from backstop.runtime.read_settings import read
from backstop.runtime.settings import RuntimeSettings
from tests.support.secured_broker import TokenEndpoint, password_of, token_endpoint


@pytest.fixture(scope="module")
def endpoint() -> Iterator[TokenEndpoint]:
    with token_endpoint() as made:
        yield made


def settings(endpoint: TokenEndpoint, **more: Any) -> RuntimeSettings:
    given: dict[str, Any] = {
            "kafka_security_protocol": "SASL_SSL", "kafka_sasl_mechanism": "OAUTHBEARER",
            "kafka_oauth_token_url": endpoint.url, "kafka_oauth_client_id": "worker",
            "kafka_oauth_client_secret": password_of("worker"), "kafka_oauth_scope": "kafka", **more,
        }  # fmt: skip
    return RuntimeSettings(**given)


def token(given: RuntimeSettings) -> str:
    made = tokens_of(given)
    assert made is not None
    return asyncio.run(made.token())


def claims(value: str) -> dict[str, object]:
    middle = value.split(".")[1]
    found: dict[str, object] = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    return found


def test_a_token_is_had_by_client_credentials_with_the_scope_and_the_extensions(endpoint):
    given = settings(endpoint, kafka_oauth_extensions=("logicalCluster=lkc-1", "identityPoolId=a=b"))
    assert claims(token(given))["sub"] == "worker"
    assert endpoint.asked[-1] == {"user": "worker", "grant_type": ["client_credentials"], "scope": ["kafka"]}
    made = tokens_of(given)
    assert made is not None
    assert made.extensions() == {"logicalCluster": "lkc-1", "identityPoolId": "a=b"}


def counting(lifetime_s: float) -> tuple[BrokerTokens, Callable[[], int]]:
    made: list[int] = []

    def fetch() -> BrokerToken:
        made.append(1)
        return BrokerToken(f"t{len(made)}", lifetime_s)

    return BrokerTokens(fetch, {}), lambda: len(made)


def test_connections_of_many_threads_share_one_token_while_it_is_fresh():
    tokens, fetched = counting(3_600)
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: asyncio.run(tokens.token()), range(24))) == {"t1"}
    assert fetched() == 1


def test_a_token_that_is_over_is_fetched_anew():
    tokens, fetched = counting(1e-9)
    assert [asyncio.run(tokens.token()) for _ in range(3)] == ["t1", "t2", "t3"]
    assert fetched() == 3


def test_a_wrong_secret_needs_the_operator_and_an_endpoint_that_is_away_does_not(endpoint):
    with pytest.raises(TokenError, match=r"answered 401 .*invalid_client") as refused:
        token(settings(endpoint, kafka_oauth_client_secret="guessed"))
    assert refused.value.refused
    assert "guessed" not in str(refused.value)
    with pytest.raises(TokenError, match="does not answer") as away:
        token(settings(endpoint, kafka_oauth_token_url="http://127.0.0.1:9/token"))
    assert not away.value.refused


def test_all_clients_of_a_process_share_one_token(endpoint):
    given = settings(endpoint, kafka_oauth_scope="shared")
    before = len(endpoint.asked)
    assert token(given) == token(settings(endpoint, kafka_oauth_scope="shared"))
    assert len(endpoint.asked) == before + 1
    assert token(settings(endpoint, kafka_oauth_scope="another")) != token(given)


def test_the_secret_follows_no_redirect(endpoint):
    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(302)
            self.send_header("location", endpoint.url)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Silent."""

    before = len(endpoint.asked)
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/"
            with pytest.raises(TokenError, match="answered 302"):
                token(settings(endpoint, kafka_oauth_token_url=url))
        finally:
            server.shutdown()
            thread.join()
    assert len(endpoint.asked) == before


def test_amazons_token_is_a_signed_url_of_the_region(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    given = RuntimeSettings(
        kafka_security_protocol="SASL_SSL", kafka_sasl_mechanism="AWS_MSK_IAM", kafka_aws_region="eu-west-1"
    )
    value = token(given)
    signed = urlsplit(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).decode())
    assert signed.hostname == "kafka.eu-west-1.amazonaws.com"
    assert parse_qs(signed.query)["Action"] == ["kafka-cluster:Connect"]


def test_without_credentials_of_amazon_the_operator_is_told(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    given = RuntimeSettings(
        kafka_security_protocol="SASL_SSL", kafka_sasl_mechanism="AWS_MSK_IAM", kafka_aws_region="eu-north-1"
    )
    with pytest.raises(TokenError, match="AWS gave no token for MSK in eu-north-1"):
        token(given)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"SASL_MECHANISM": "PLAIN"}, "PLAIN needs BACKSTOP_KAFKA_SASL_USERNAME and BACKSTOP_KAFKA_SASL_PASSWORD"),
        ({"SASL_MECHANISM": "OAUTHBEARER"}, "OAUTHBEARER needs BACKSTOP_KAFKA_OAUTH_TOKEN_URL and"),
        ({"SASL_MECHANISM": "AWS_MSK_IAM"}, "AWS_MSK_IAM needs BACKSTOP_KAFKA_AWS_REGION"),
        ({"OAUTH_TOKEN_URL": "http://idp.example/token"}, "KAFKA_OAUTH_TOKEN_URL is http:// beyond this machine"),
        ({"OAUTH_EXTENSIONS": "logicalCluster"}, "'logicalCluster' is not NAME=VALUE"),
        ({"SSL_KEYFILE": "/key"}, "KEYFILE is the key of BACKSTOP_KAFKA_SSL_CERTFILE: set that, too"),
        ({"SSL_CERTFILE": "/cert", "SECURITY_PROTOCOL": "PLAINTEXT"}, "CERTFILE has no effect with PLAINTEXT"),
    ],
)
def test_settings_that_lack_or_contradict_something_end_the_start(variables, told, monkeypatch):
    good = {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_USERNAME": "u", "SASL_PASSWORD": "p"}
    if "SASL_MECHANISM" in variables:
        good = {"SECURITY_PROTOCOL": "SASL_SSL"}
    for name, value in {**good, **variables}.items():
        monkeypatch.setenv(f"BACKSTOP_KAFKA_{name}", value)
    with pytest.raises(ConfigurationError, match=told.replace("(", r"\(").replace(")", r"\)")):
        read(RuntimeSettings)
