"""One attempt against real servers: its outcome, and the addresses that it may and may not reach."""

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from backstop.outgoing.egress import AddressRefusedError, CheckedResolver, SystemLookup, checked_socket
from backstop.outgoing.policy import Answered, Outcome, Unanswered
from backstop.outgoing.sender import ANSWER_BYTES_MAX, Sender
from backstop.runtime.addresses import EgressRules

PUBLIC = "93.184.216.34"
RULES = EgressRules(frozenset({443}))
HERE = EgressRules(frozenset({443}), loopback=True)
BODY = b'{"type": "response.completed"}'
HEADERS = {"webhook-id": "whd_1", "Content-Type": "application/json"}


@dataclass
class Names:
    """A resolver's answers, one per call; the last one repeats."""

    answers: list[list[str]]
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> list[tuple[int, str]]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in answer]


@dataclass
class Server:
    """Keeps the requests, answers with `reply`, and counts connections."""

    reply: bytes
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    before_reply: Callable[[], Awaitable[None]] | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                self.requests.append(head + await reader.readexactly(length))
                if self.before_reply is not None:
                    await self.before_reply()
                writer.write(self.reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def reply(status: str = "200 OK", headers: str = "", body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


@asynccontextmanager
async def serving(server: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


@asynccontextmanager
async def sending(
    rules: EgressRules, names: Names | None = None, timeout_s: float = 5.0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Sender]:
    sender = Sender(rules, names or Names([["127.0.0.1"]]), timeout_s=timeout_s, connections_max=4, tls=tls)
    await sender.start()
    try:
        yield sender
    finally:
        await sender.stop()


def run(story: Awaitable[None]) -> None:
    async def main() -> None:
        await story

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def posted(server: Server, *, timeout_s: float = 5.0, path: str = "/hook") -> Outcome:
    async with sending(HERE, timeout_s=timeout_s) as sender:
        return await sender.post(f"http://localhost:{server.port}{path}", HEADERS, BODY)


def test_what_is_sent_is_the_body_and_the_headers_and_no_cookie() -> None:
    async def story() -> None:
        async with serving(Server(reply(headers="Set-Cookie: a=b\r\n"))) as server, sending(HERE) as sender:
            url = f"http://localhost:{server.port}/hook?x=%2f%41"
            assert await sender.post(url, HEADERS, BODY) == Answered(200)
            assert await sender.post(url, HEADERS, BODY) == Answered(200)
        first, second = server.requests
        assert first.startswith(b"POST /hook?x=%2f%41 HTTP/1.1\r\n"), "as it was registered, byte for byte"
        assert first.endswith(b"\r\n\r\n" + BODY)
        assert b"webhook-id: whd_1\r\n" in first
        assert b"cookie" not in second.lower()
        assert server.connections == 1

    run(story())


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (reply("204 No Content"), Answered(204)),
        (reply("500 Oops", body=b"x" * 10), Answered(500)),
        (reply("503 Busy", headers="Retry-After: 7\r\n"), Answered(503, "7")),
        (b"not http\r\n\r\n", Unanswered("connection")),
        (reply(headers=f"x: {'y' * 20_000}\r\n"), Unanswered("connection")),
    ],
)
def test_an_answer_comes_back_as_data(answer: bytes, outcome: Outcome) -> None:
    async def story() -> None:
        async with serving(Server(answer)) as server:
            assert await posted(server) == outcome

    run(story())


def test_a_redirect_is_not_followed() -> None:
    async def story() -> None:
        async with serving(Server(reply())) as other:
            to = f"Location: http://localhost:{other.port}/\r\n"
            async with serving(Server(reply("307 Temporary Redirect", headers=to))) as server:
                assert await posted(server) == Answered(307)
            assert other.connections == 0

    run(story())


def test_a_server_that_is_slow_is_given_up_in_time() -> None:
    async def story() -> None:
        never = asyncio.Event()
        async with serving(Server(b"", before_reply=never.wait)) as server:  # type: ignore[arg-type]
            began_s = asyncio.get_running_loop().time()
            assert await posted(server, timeout_s=0.3) == Unanswered("timeout")
            assert asyncio.get_running_loop().time() - began_s < 2
            never.set()

    run(story())


def test_a_body_without_an_end_costs_a_connection_and_not_the_delivery() -> None:
    async def story() -> None:
        endless = reply().replace(b"Content-Length: 0", b"Content-Length: 999999999") + b"x" * (2 * ANSWER_BYTES_MAX)
        async with serving(Server(endless)) as server, sending(HERE) as sender:
            for _ in range(2):
                assert await sender.post(f"http://localhost:{server.port}/", HEADERS, BODY) == Answered(200)
            assert server.connections == 2

    run(story())


def test_a_refused_connection_and_an_unknown_name_are_different_failures() -> None:
    async def lost(host: str, port: int) -> list[tuple[int, str]]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    async def story() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            async with sending(HERE) as sender:
                url = f"http://localhost:{free.getsockname()[1]}/"
                assert await sender.post(url, HEADERS, BODY) == Unanswered("connection")
        async with sending(RULES, lost) as sender:  # type: ignore[arg-type]
            assert await sender.post("https://hooks.example.com/", HEADERS, BODY) == Unanswered("dns")

    run(story())


def test_a_proxy_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with serving(Server(reply())) as proxy, serving(Server(reply())) as server:
            for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            assert await posted(server) == Answered(200)
            assert (proxy.connections, server.connections) == (0, 1)

    run(story())


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        [PUBLIC, "10.0.0.1"],
    ],
)
def test_a_public_name_that_leads_inside_is_refused_whatever_else_it_leads_to(answer: list[str]) -> None:
    async def story() -> None:
        async with sending(RULES, Names([answer])) as sender:
            assert await sender.post("https://hooks.example.com/", HEADERS, BODY) == Unanswered("address_refused")

    run(story())


def test_a_name_that_is_rebound_gains_nothing() -> None:
    async def story() -> None:
        names = Names([[PUBLIC], ["127.0.0.1"]])
        found = await CheckedResolver(RULES, names).resolve("hooks.example.com", 443)
        # What is connected to is the address that was checked, not the name: there is no second question to answer.
        assert [one["host"] for one in found] == [PUBLIC]
        assert names.asked == ["hooks.example.com"]
        with pytest.raises(AddressRefusedError):
            await CheckedResolver(RULES, names).resolve("hooks.example.com", 443)

    run(story())


def test_a_name_that_is_rebound_between_two_attempts_is_refused_at_the_second() -> None:
    async def story() -> None:
        async with serving(Server(reply(headers="Connection: close\r\n"))) as server:
            rules = EgressRules(frozenset({server.port}), loopback=True)
            names = Names([["127.0.0.1"], ["10.0.0.1"]])
            async with sending(rules, names) as sender:
                url = f"http://localhost:{server.port}/"
                assert await sender.post(url, HEADERS, BODY) == Answered(200)
                assert await sender.post(url, HEADERS, BODY) == Unanswered("address_refused")
            assert (len(names.asked), server.connections) == (2, 1)

    run(story())


def test_the_socket_checks_what_never_came_through_the_resolver() -> None:
    make = checked_socket(RULES)
    with pytest.raises(AddressRefusedError):
        make((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 443)))
    make((socket.AF_INET, socket.SOCK_STREAM, 0, "", (PUBLIC, 443))).close()


def test_a_url_that_was_stored_and_is_refused_by_now_is_not_sent_to() -> None:
    async def story() -> None:
        async with serving(Server(reply())) as server, sending(RULES) as sender:
            for url in (f"http://127.0.0.1:{server.port}/", "https://2130706433/", "https://localhost/"):
                assert await sender.post(url, HEADERS, BODY) == Unanswered("url_refused")
            assert server.connections == 0

    run(story())


def test_the_systems_resolver_is_asked_in_threads_of_its_own() -> None:
    async def story() -> None:
        lookup = SystemLookup(2)
        assert (socket.AF_INET, "127.0.0.1") in await lookup("localhost", 80)
        lookup.close()

    run(story())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for `webhooks.example.com`, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("THE NAME IN A CERTIFICATE IS NOT TESTED: openssl not found on PATH")
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "chain.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=webhooks.example.com", "-addext", "subjectAltName=DNS:webhooks.example.com", "-keyout", key,
         "-out", chain],
        check=True, capture_output=True,
    )  # fmt: skip
    return chain, key


@pytest.mark.parametrize(
    ("host", "trusted", "outcome"),
    [
        ("webhooks.example.com", True, Answered(200)),
        ("other.example.com", True, Unanswered("tls")),
        ("webhooks.example.com", False, Unanswered("tls")),
    ],
)
def test_the_connection_goes_to_the_address_and_the_certificate_must_be_the_names(
    certificate: tuple[Path, Path], host: str, trusted: bool, outcome: Outcome
) -> None:
    async def story() -> None:
        of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        of_server.load_cert_chain(*certificate)
        of_client = ssl.create_default_context(cafile=str(certificate[0]) if trusted else None)
        async with serving(Server(reply()), of_server) as server:
            rules = EgressRules(frozenset({server.port}), loopback=True)
            async with sending(rules, Names([["127.0.0.1"]]), tls=of_client) as sender:
                assert await sender.post(f"https://{host}:{server.port}/", HEADERS, BODY) == outcome

    run(story())
