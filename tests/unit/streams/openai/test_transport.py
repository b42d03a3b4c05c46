"""The transport behaves as the plain SDK's: a forward proxy, a private CA, client certificates. No secret is shown."""

import asyncio
import logging
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from prometheus_client import CollectorRegistry

from backstop.runtime.errors import ConfigurationError
from streams.openai.answers import Fault, ProviderAnswer, Reply, read_create
from streams.openai.transport import tls_context
from streams.provider import Rejected
from streams.workers.metrics import WorkerMetrics
from tests.support.accounts import account_at, client_of
from tests.support.waiting import wait_until
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.misbehaving import RESPONSE_ID, Mischief, Server, serving

PASSWORD = "s3cret/%:pass"
QUOTED = "s3cret%2F%25%3Apass"
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
TAKEN = server.answer(200, server.response())
DIRECT, PROXIED = "direct", "by the proxy"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, ca_file: Path) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


class ForwardProxy:
    """proxy.py as a process: it tunnels and forwards for clients with the name and password, and records their
    requests.
    """

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self._log = log

    def url(self, credentials: str = f"user:{QUOTED}@", scheme: str = "http") -> str:
        return f"{scheme}://{credentials}127.0.0.1:{self.port}"

    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def _forward_proxy(folder: Path, *options: str) -> Iterator[ForwardProxy]:
    port_file, log = folder / "port", folder / "log"
    command = (
        *(sys.executable, "-W", "ignore", "-m", "proxy", "--hostname", "127.0.0.1", "--port", "0"),
        *("--port-file", str(port_file), "--num-workers", "1", "--num-acceptors", "1"),
        *("--basic-auth", f"user:{PASSWORD}", "--data-dir", str(folder / "data"), *options),
    )
    environment = {name: value for name, value in os.environ.items() if name.upper() not in PROXY_VARIABLES}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        wait_until(lambda: int(port_file.read_text()), 30, "the port of the proxy")
        yield ForwardProxy(int(port_file.read_text()), log)
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForwardProxy]:
    with _forward_proxy(tmp_path_factory.mktemp("proxy")) as running:
        yield running


def ask(base_url: str, registry: CollectorRegistry | None = None, timeout_ms: int = 10_000, **options: Any) -> Any:
    """One create of a client that is made now, with the current environment."""
    client = client_of(account_at(base_url, **options), WorkerMetrics(registry or CollectorRegistry()))

    async def scenario() -> Reply:
        try:
            asked = {"model": "m", "input": "Hi"}
            return await client.create(asked, job_id="job_1", attempt=1, tenant="acme", timeout_ms=timeout_ms)
        finally:
            await client.close()

    return scenario()


def tls_scenario(server_tls: ssl.SSLContext, **options: Any) -> Any:
    async def scenario() -> tuple[Reply, Server]:
        async with serving(TAKEN, tls=server_tls) as state:
            return await ask(f"https://127.0.0.1:{state.port}/v1", **options), state

    return scenario()


def assert_never_sent(reply: Reply, state: Server | None = None) -> None:
    assert isinstance(reply, Fault), reply
    assert reply.kind == "never_sent", reply
    verdict = read_create(reply, 0)
    assert isinstance(verdict, Rejected)
    assert verdict.cause == "unsent"
    assert state is None or state.requests == []


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_through_a_tunnel_to_a_server_that_only_our_ca_knows(
    loop: Any, proxy: ForwardProxy, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url())
    with asyncio.Runner(loop_factory=loop) as runner:
        reply, state = runner.run(tls_scenario(server_tls))
    assert isinstance(reply, ProviderAnswer), reply
    assert reply.status == 200
    assert state.posts == 1
    assert "proxy-authorization" not in state.requests[0].headers
    wait_until(lambda: f"127.0.0.1:{state.port}" in proxy.log(), 20, "the tunnel in the log of the proxy")


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_proxy_may_speak_tls_itself(
    loop: Any, authority: trustme.CA, server_tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, certificate, key = authority.issue_cert("127.0.0.1"), tmp_path / "certificate.pem", tmp_path / "key.pem"
    own.cert_chain_pems[0].write_to_path(certificate)
    own.private_key_pem.write_to_path(key)
    with _forward_proxy(tmp_path, "--cert-file", str(certificate), "--key-file", str(key)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url(scheme="https"))
        with asyncio.Runner(loop_factory=loop) as runner:
            reply, state = runner.run(tls_scenario(server_tls))
    assert isinstance(reply, ProviderAnswer), reply
    assert state.posts == 1


@pytest.mark.parametrize(
    ("variables", "way"),
    [
        ({"HTTP_PROXY": "."}, PROXIED),
        ({"http_proxy": "."}, PROXIED),
        ({"ALL_PROXY": "."}, PROXIED),
        ({"all_proxy": "."}, PROXIED),
        ({"HTTPS_PROXY": "."}, DIRECT),
        ({"http_proxy": "", "HTTP_PROXY": "."}, DIRECT),
        ({"HTTP_PROXY": ".", "NO_PROXY": "127.0.0.1"}, DIRECT),
        ({"HTTP_PROXY": ".", "no_proxy": "localhost,127.0.0.1"}, DIRECT),
        ({"HTTP_PROXY": ".", "NO_PROXY": "*"}, DIRECT),
        ({"HTTP_PROXY": ".", "NO_PROXY": "other.example"}, PROXIED),
        ({}, DIRECT),
    ],
    ids=str,
)
def test_which_way_a_call_takes_is_said_by_the_environment(
    variables: dict[str, str], way: str, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, proxy.url() if value == "." else value)

    async def scenario() -> tuple[Reply, Server]:
        async with serving(TAKEN) as state:
            return await ask(state.base_url), state

    reply, state = asyncio.run(scenario())
    assert isinstance(reply, ProviderAnswer), reply
    assert reply.status == 200
    (request,) = state.requests
    # proxy.py adds a header with its name when it forwards a plain request.
    assert ("via" in request.headers) == (way == PROXIED)
    assert "proxy-authorization" not in request.headers


@pytest.mark.parametrize("credentials", ["", "user:wrong-s3cret@"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_us_has_passed_nothing_on(
    scheme: str, credentials: str, proxy: ForwardProxy, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.url(credentials))
    registry = CollectorRegistry()

    async def scenario() -> tuple[Reply, Server]:
        async with serving(TAKEN, tls=server_tls if scheme == "https" else None) as state:
            return await ask(f"{scheme}://127.0.0.1:{state.port}/v1", registry), state

    reply, state = asyncio.run(scenario())
    assert_never_sent(reply, state)
    assert "the proxy answered 407" in str(reply)
    assert registry.get_sample_value("backstop_openai_alarms_total", {"kind": "proxy"}) == 1
    assert "s3cret" not in caplog.text + str(reply)


@pytest.mark.parametrize(
    "mischief",
    [server.answer(407, b""), server.html(502), server.answer(503, {"error": {}}), server.answer(200, b"",
    content_type="text/html"),
     server.close, server.reset, server.not_http, server.stall, server.slow_headers],
    ids=["407", "502", "503", "opens a tunnel that is none", "closes", "resets", "no HTTP", "says nothing", "drips"],
)  # fmt: skip
def test_no_tunnel_no_request(mischief: Mischief, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> tuple[Reply, Server]:
        async with serving(mischief) as state:
            monkeypatch.setenv("https_proxy", f"127.0.0.1:{state.port}")  # without a scheme, as curl takes it
            return await ask("https://api.example.invalid/v1", timeout_ms=1_000), state

    reply, state = asyncio.run(scenario())
    assert_never_sent(reply)
    assert [request.method for request in state.requests] == ["CONNECT"]


def test_a_proxy_that_is_not_there_or_finds_no_server_has_passed_nothing_on(
    proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.free_port()}")
    assert_never_sent(asyncio.run(ask("https://api.example.invalid/v1")))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url())
    assert_never_sent(asyncio.run(ask(f"https://127.0.0.1:{server.free_port()}/v1")))


def test_a_connection_that_is_never_made_was_never_sent() -> None:
    """The server does not accept: the time limit passes before there is a connection."""

    async def scenario() -> tuple[Reply, Server]:
        async with serving(server.stall) as state:
            return await ask(f"https://127.0.0.1:{state.port}/v1", timeout_ms=300), state

    assert_never_sent(asyncio.run(scenario())[0])


def test_a_server_that_our_ca_does_not_know_is_sent_nothing(
    server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    reply, state = asyncio.run(tls_scenario(server_tls))
    assert_never_sent(reply, state)


def test_a_folder_of_certificates_does_too(
    server_tls: ssl.SSLContext, ca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_bytes(ca_file.read_bytes())
    subprocess.run(("openssl", "rehash", str(tmp_path)), check=True)
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    reply, _ = asyncio.run(tls_scenario(server_tls))
    assert isinstance(reply, ProviderAnswer), reply


def test_a_gateway_that_asks_for_a_certificate_is_shown_ours(authority: trustme.CA, tmp_path: Path) -> None:
    strict = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(strict)
    authority.configure_trust(strict)
    strict.verify_mode = ssl.CERT_REQUIRED
    ours = authority.issue_cert("backstop@acme.example")
    both, certificate, key = tmp_path / "both.pem", tmp_path / "certificate.pem", tmp_path / "key.pem"
    ours.private_key_and_cert_chain_pem.write_to_path(both)
    ours.cert_chain_pems[0].write_to_path(certificate)
    ours.private_key_pem.write_to_path(key)
    for context in (tls_context(both, None), tls_context(certificate, key)):
        reply, state = asyncio.run(tls_scenario(strict, tls=context))
        assert isinstance(reply, ProviderAnswer), reply
        assert state.posts == 1
    _, state = asyncio.run(tls_scenario(strict))
    assert state.requests == []


@pytest.mark.parametrize(
    "url", ["socks5://user:s3cret@127.0.0.1:1080", "ftp://user:s3cret@h", "http://user:s3cret@",
    "http://user:s3cret@h:port"]
)  # fmt: skip
def test_an_invalid_proxy_is_refused_at_start_without_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", url)
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY") as caught:
        client_of(account_at("http://h/v1", tls=tls_context(None, None)))
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_files_that_are_none_are_refused_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = tmp_path / "nothing.pem"
    with pytest.raises(ConfigurationError, match="BACKSTOP_OPENAI_CLIENT_CERTIFICATE"):
        tls_context(nothing, None)
    monkeypatch.setenv("SSL_CERT_FILE", str(nothing))
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
        tls_context(None, None)


def test_a_poll_goes_through_the_proxy_too(proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url())

    async def scenario() -> tuple[Reply, Server]:
        async with serving(server.answer(200, server.completed())) as state:
            client = client_of(account_at(state.base_url))
            try:
                await client.retrieve("..")
                return await client.retrieve(RESPONSE_ID), state
            finally:
                await client.close()

    reply, state = asyncio.run(scenario())
    assert isinstance(reply, ProviderAnswer), reply
    assert "via" in state.requests[0].headers  # of the second, on the same connection, the proxy does not say it
    assert [request.path for request in state.requests] == ["/v1/responses/%2E%2E", f"/v1/responses/{RESPONSE_ID}"]
