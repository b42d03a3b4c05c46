"""One attempt: one POST, no redirect, no proxy, no cookie, and nothing of the answer but its status."""

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
"""What of a body is read so that the connection can be used again. A longer one costs the connection, and nothing else."""
KEEPALIVE_S: Final = 15.0
ANSWER_READ_S: Final = 2.0
HEADER_BYTES_MAX: Final = 8_190


class Sender:
    """One client a process. Whatever the network and the other side do comes back as an `Outcome`."""

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
            use_dns_cache=False,  # what was checked is connected to, and forgotten
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
        assert self._session is not None, "start it first"
        try:
            self._rules.check_url(url)
        except ValueError:
            return Unanswered("url_refused")
        try:
            # Around all of it: a lookup in a thread does not end when aiohttp's own timeout does.
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(self._session, url, headers, body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Unanswered(_failed_by(error))
        except Exception as error:
            # uvloop raises RuntimeError for a transport that has just closed, aiohttp's parser whatever it meets: one endpoint's answer
            # must not end the process, which would ask for the same answer again.
            log.error("attempt_failed_unforeseen", exc_info=error)
            return Unanswered("connection")

    async def _exchange(
        self, session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], body: bytes
    ) -> Outcome:
        target = URL(url, encoded=True)  # as it was checked, not as a parser would write it
        async with session.post(target, data=body, headers=headers, allow_redirects=False) as answer:
            if not await _read_to_its_end(answer):
                answer.close()
            return Answered(answer.status, answer.headers.get(hdrs.RETRY_AFTER))


async def _read_to_its_end(answer: aiohttp.ClientResponse) -> bool:
    """So that the connection can be used again; False where that would take too long. What was answered stands already."""
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
        case TimeoutError():  # aiohttp's own are among them
            return "timeout"
        case aiohttp.ClientConnectorError(os_error=AddressRefusedError()):
            return "address_refused"
        case aiohttp.ClientConnectorDNSError():
            return "dns"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return "tls"
        case _:
            return "connection"
