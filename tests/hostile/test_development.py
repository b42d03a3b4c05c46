"""Serving without keys: only where it was asked for, and only for programs of this machine."""

import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from backstop.runtime.errors import ConfigurationError
from backstop.runtime.http.keys import KeysFile, save_keys
from backstop.runtime.process.chance import random_hex
from receiver.app import build_app
from tests.support.memory_publisher import MemoryPublisher
from tests.unit.receiver.ingress import SUBMIT, Ingress, raw_exchange, settings, signed, with_ingress

PROXIES: list[dict[str, str]] = [
    {"X-Forwarded-For": "203.0.113.9"}, {"x-forwarded-host": "api.example"}, {"X-Forwarded-Proto": "https"},
    {"Forwarded": "for=203.0.113.9"}, {"Via": "1.1 varnish"}, {"X-Real-IP": "203.0.113.9"}, {"CF-Ray": "1"},
    {"CDN-Loop": "cloudflare"}, {"True-Client-IP": "203.0.113.9"}, {"X-Envoy-External-Address": "203.0.113.9"},
    {"X-Amzn-Trace-Id": "Root=1"}, {"X-Original-Host": "api.example"}, {"x_forwarded_for": "203.0.113.9"},
    {"HTTP_X_FORWARDED_FOR": "203.0.113.9"}, {"X-Original-Forwarded-For": "203.0.113.9"}, {"WL-Proxy-Client-IP": "1"},
    {"Proxy-Connection": "keep-alive"}, {"Forwarded-For": "203.0.113.9"}, {"X-Nginx-Proxy": "true"},
    {"Tailscale-User-Login": "a@b"}, {"X-Vercel-Id": "1"}, {"X-Goog-Authenticated-User-Email": "a@b"},
    {"Remote-User": "root"}, {"Max-Forwards": "9"}, {"X-Amz-Cf-Id": "1"}, {"X-SSL-Client-Verify": "SUCCESS"},
    {"X-Auth-Request-User": "root"}, {"X-Coming-From": "203.0.113.9"}, {"X-Server-Name": "api.example"},
    {"X-Request-Start": "t=1"}, {"X-Cluster-Client-IP": "203.0.113.9"}, {"X-Cloud-Trace-Context": "1/2"},
    {"X-Azure-ClientIP": "203.0.113.9"}, {"Fly-Client-IP": "203.0.113.9"}, {"X-ARR-SSL": "1"}, {"X-ProxyUser-Ip": "1"},
    {"Cf-Connecting-Ip": "203.0.113.9"}, {"Fastly-Client-IP": "203.0.113.9"}, {"X-Appengine-Country": "ZZ"},
    {"X-Original-URL": "/"}, {"X-Client-Cert": "1"}, {"Ngrok-Trace-Id": "1"}, {"X-Upstream-Name": "a"},
]  # fmt: skip
OF_FRAMEWORKS: list[dict[str, str]] = [
    # Semantic Kernel, OpenRouter's callers, Helicone's and Portkey's, Copilot's, Google's and AWS's SDKs, LangSmith.
    {"semantic-kernel-version": "python/1.45.0"}, {"HTTP-Referer": "http://localhost", "X-Title": "My application"},
    {"Helicone-User-Id": "u", "Helicone-Property-Session": "s"}, {"x-portkey-trace-id": "1"},
    {"Editor-Version": "vscode/1.99", "Copilot-Integration-Id": "x"}, {"X-Goog-Api-Client": "gl-python/3.12"},
    {"X-Amz-Date": "20260101T000000Z"}, {"langsmith-trace": "1"}, {"X-Request-Id": "1"}, {"X-User-Id": "u"},
    {"X-Session-Affinity": "s"}, {"X-Team": "search"}, {"api-key": "k"}, {"x-api-key": "k"}, {"x-ms-client-id": "1"},
]  # fmt: skip
"""What frameworks send by themselves, and what their users add (`default_headers`)."""
PAGES: list[dict[str, str]] = [
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": ""}, {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "something-new"}, {"Origin": "http://localhost:3000"},
    {"Origin": "http://127.0.0.1"}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
]  # fmt: skip
NAMES = [
    "evil.example",
    "evil.example:8080",
    "127.0.0.1.nip.io",
    "localhost.evil.example",
    "2130706433",
    "0.0.0.0",
    "[::]",
    "localhost:x",
    "localhost:",
    "[::1%25lo]",
    "localhost.",
    "a.localhost",
    "[::ffff:203.0.113.9]",
]


def start(**changed: Any) -> None:
    # No body is stored, so no blob store is needed.
    build_app(settings(**changed), MemoryPublisher(), None, lambda: 0, random_hex)  # type: ignore[arg-type]


def test_without_keys_nothing_starts_unless_development_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"no keys file at .*keys\.json.*backstop keys create.*BACKSTOP_DEVELOPMENT"
    ):
        start(data_dir=tmp_path, development=False)
    start(data_dir=tmp_path, development=True)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": []}', '{"v": 2}', "\ufeff{}", "null", '{"keys": [{}]}'])
def test_a_keys_file_that_holds_no_keys_ends_the_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    path.chmod(0o600)
    for changed in ({"keys_file": path}, {"data_dir": tmp_path, "development": True}):
        with pytest.raises(ConfigurationError, match="the keys file"):
            start(**changed)


def test_a_keys_file_that_is_named_and_not_there_or_not_readable_ends_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (
        tmp_path / "none.json", folder, tmp_path / "dangling", tmp_path / "none" / "keys.json", tmp_path / "pipe",
        Path("/dev/zero"),
    ):  # fmt: skip
        with pytest.raises(ConfigurationError, match="keys file"):
            start(keys_file=path)


def test_a_key_that_stands_twice_in_the_file_is_refused_as_one_of_the_two_may_be_revoked(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    entry = {
        "id": "0" * 12, "tenant": "acme", "scopes": ["read"], "sha256": "0" * 64, "created_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    path.write_bytes(orjson.dumps({"keys": [{**entry, "revoked_at": "2026-02-01T00:00:00Z"}, entry]}))
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="000000000000 stands there more than once"):
        start(keys_file=path)


def test_a_keys_file_that_all_users_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    save_keys(path, KeysFile())
    path.chmod(0o666)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        start(keys_file=path)


def test_development_and_a_named_keys_file_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"BACKSTOP_DEVELOPMENT .* BACKSTOP_KEYS_FILE"):
        start(keys_file=tmp_path / "keys.json", development=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", ""])
def test_development_is_refused_beyond_loopback(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigurationError, match="not a loopback address"):
        start(data_dir=tmp_path, host=host)


def test_in_development_no_proxy_no_other_page_and_no_other_name_gets_in() -> None:
    async def story(ingress: Ingress) -> None:
        for wanted, tried in (
            ("forwarded_request", PROXIES),
            ("cross_site", PAGES),
            ("foreign_host", [{"Host": name} for name in NAMES]),
        ):
            for headers in tried:
                for method, path in (("POST", "/v1/jobs"), ("POST", "/v1/jobs/x/cancel"), ("GET", "/v1/caller")):
                    body = SUBMIT if path == "/v1/jobs" else None
                    status, document, _ = await ingress.call(method, path, json=body, headers=headers)
                    assert (status, document["code"]) == (403, wanted), headers
        assert ingress.publisher.landed == []
        # As nginx asks with its default configuration.
        plain = f"GET /v1/caller HTTP/1.0\r\nHost: 127.0.0.1:{ingress.port}\r\nConnection: close\r\n\r\n"
        assert b"forwarded_request" in await raw_exchange(ingress.port, plain.encode())
        # As a client asks that takes this port for a proxy.
        meant = (
            f"GET http://evil.example/v1/caller HTTP/1.1\r\nHost: 127.0.0.1:{ingress.port}\r\nConnection: close\r\n\r\n"
        )
        assert b"foreign_host" in await raw_exchange(ingress.port, meant.encode())

    with_ingress(story)


def test_in_development_programs_and_the_page_itself_get_in_and_webhooks_from_anywhere() -> None:
    async def story(ingress: Ingress) -> None:
        own: list[dict[str, str]] = [
            {},
            {
                "Host": f"localhost:{ingress.port}",
                "Origin": f"http://localhost:{ingress.port}",
                "Sec-Fetch-Site": "same-origin",
            },
            {"Sec-Fetch-Site": "none", "Sec-CH-Prefers-Color-Scheme": "dark"},
            {
                "X-Stainless-Retry-Count": "0",
                "OpenAI-Organization": "org",
                "X-Client-Request-Id": "1",
                "traceparent": "0",
            },
            {"Host": "LOCALHOST"},
            # Java's client, Chrome with its tools, Python's SDK, a traced service, Postman.
            {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABk"},
            {"DNT": "1", "Sec-GPC": "1", "Priority": "u=1", "X-Requested-With": "XMLHttpRequest", "Cookie": "a=b"},
            {"X-Stainless-Async": "async:asyncio", "X-Stainless-Read-Timeout": "600", "OpenAI-Beta": "responses=v1"},
            {"tracestate": "a=1", "baggage": "a=1", "sentry-trace": "0", "b3": "0", "X-B3-TraceId": "0"},
            {"Postman-Token": "1", "Cache-Control": "no-cache", "Pragma": "no-cache", "Backstop-Session": "s"},
            {"Host": f"[::1]:{ingress.port}"},
            *OF_FRAMEWORKS,
        ]
        for headers in own:
            assert (await ingress.call("POST", "/v1/jobs", json=SUBMIT, headers=headers))[0] == 202, headers
        tunnelled = {**signed(b"{}"), "Host": "tunnel.example", "X-Forwarded-For": "203.0.113.9"}
        assert (await ingress.webhook(b"{}", tunnelled)).status not in {401, 403}, (
            "a signature proves what a tunnel brings"
        )

    with_ingress(story)
