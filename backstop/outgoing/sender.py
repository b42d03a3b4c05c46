"""One attempt: one POST without redirects, proxies or cookies, of whose answer only status and Retry-After are used."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final

import aiohttp
from aiohttp import hdrs
from yarl import URL

from backstop.outgoing.egress import AddressRefusedError, CheckedResolver, Lookup, checked_socket
from backstop.outgoing.policy import Answered, Outcome, Unanswered
from backstop.runtime.addresses import EgressRules
from backstop.runtime.process.logs import get_logger
from schemas.deliveries import FailedBy

log = get_logger("backstop.outgoing.sender")

ANSWER_BYTES_MAX: Final = 16_384
"""Bytes of an answer's body that are read, so that the connection
can be reused. A longer body closes the connection.
"""
KEEPALIVE_S: Final = 15.0
ANSWER_READ_S: Final = 2.0
HEADER_BYTES_MAX: Final = 8_190


class Sender:
    """One client per process. Every failure of the network or the endpoint is returned as an `Outcome`."""

    def __init__(
        self, rules: EgressRules, lookup: Lookup, *, timeout_s: float, connections_max: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self._rules = rules
        self._lookup = lookup
        self._timeout_s = timeout_s
        self._connections_max = connections_max
        self._tls = tls or ssl.create_default_context()
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        connector = aiohttp.TCPConnector(
            resolver=CheckedResolver(self._rules, self._lookup),
            use_dns_cache=False,  # each connection resolves and checks its name anew
            socket_factory=checked_socket(self._rules),
            ssl=self._tls,
            limit=self._connections_max,
            keepalive_timeout=KEEPALIVE_S,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # no proxies, no .netrc
            auto_decompress=False,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
        )

    async def stop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        assert self._session is not None, "call start() first"
        try:
            self._rules.check_url(url)
        except ValueError:
            return Unanswered("url_refused")
        try:
            # Covers everything: a lookup in a thread does not end with aiohttp's own timeout.
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(self._session, url, headers, body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Unanswered(_failed_by(error))
        except Exception as error:
            # uvloop raises RuntimeError for a transport that has just closed, and aiohttp's parser may raise anything.
            # One endpoint's answer must not end the process: the next one would request the same answer.
            log.error("attempt_failed_unforeseen", exc_info=error)
            return Unanswered("connection")

    async def _exchange(
        self, session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], body: bytes
    ) -> Outcome:
        target = URL(url, encoded=True)  # exactly as checked, not as a parser would rewrite it
        async with session.post(target, data=body, headers=headers, allow_redirects=False) as answer:
            if not await _read_to_its_end(answer):
                answer.close()
            return Answered(answer.status, answer.headers.get(hdrs.RETRY_AFTER))


async def _read_to_its_end(answer: aiohttp.ClientResponse) -> bool:
    """Read the body so that the connection can be reused; False if it
    is too long or too slow. The status stands already.
    """
    left = ANSWER_BYTES_MAX
    try:
        async with asyncio.timeout(ANSWER_READ_S):
            while left > 0 and (chunk := await answer.content.read(left)):
                left -= len(chunk)
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
    return left > 0


def _failed_by(error: Exception) -> FailedBy:
    match error:
        case TimeoutError():  # includes aiohttp's own
            return "timeout"
        case aiohttp.ClientConnectorError(os_error=AddressRefusedError()):
            return "address_refused"
        case aiohttp.ClientConnectorDNSError():
            return "dns"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return "tls"
        case _:
            return "connection"
