"""Tickets for live streams: a browser's `EventSource` can't send a key, and a key must never be part of a URL.

A ticket opens one path for one key, once, within `TICKET_S`. It is signed, not stored: each receiver with the same
ticket secrets and keys accepts it. Forging one needs both a ticket secret and the hash of the key. The receiver that
accepts a ticket remembers it as used, so with n receivers a leaked ticket opens its stream at most n times within that
minute. A process refuses tickets made before its own start, as it can't know which of them were used.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter

from backstop.runtime.http.keys import ApiKey
from backstop.runtime.process.chance import RandomHex
from backstop.runtime.process.clock import NowMs, monotonic_s
from backstop.runtime.shares import Shares
from receiver.access.addresses import allowed
from receiver.access.keys import Caller
from receiver.problems import unavailable

TICKET_S: Final = 60.0
SKEW_MS: Final = 5_000
"""How far the clock of the receiver that made a ticket may be ahead of this one's."""
REMEMBERED_MAX: Final = 50_000
"""Used tickets of the last minute, about 10 MB; a tenant alone may use three quarters of them. At the limit new streams
are refused: dropping a used ticket would make it valid again.
"""
NONCE_BITS: Final = 128
STREAM_PATH: Final = re.compile(r"/v1/(events|jobs/[^/?#]+/(events|stream)|sessions/[^/?#]+/events)")
"""The paths that a ticket may open."""

_TICKET = re.compile(r"bst_([0-9a-f]{12}|dev)_([0-9]{1,15})_([0-9a-f]{32})_([0-9a-f]{64})")
_DEVELOPMENT = "dev"
_PURPOSE: Final = b"backstop/ticket/1\n"


@dataclass(frozen=True, slots=True)
class Ticket:
    text: str
    expires_at_ms: int


class TicketKeys(Protocol):
    """The keys that are valid now."""

    def live_key(self, key_id: str) -> ApiKey | None: ...

    def caller_without_key(self) -> Caller | None:
        """The caller in development; None where keys are needed."""


class Tickets:
    def __init__(
        self, secrets: Sequence[bytes], keys: TicketKeys, now_ms: NowMs, random_hex: RandomHex,
        registry: CollectorRegistry, now_s: Callable[[], float] = monotonic_s,
    ) -> None:  # fmt: skip
        """The first of `secrets` signs; all are accepted. `now_s` is monotonic, to measure the time since the start."""
        assert secrets, "`build_app` draws one if none is set"
        self._secrets = list(secrets)
        self._keys = keys
        self._now_ms = now_ms
        self._random_hex = random_hex
        self._now_s = now_s
        self._began_s = now_s()
        self._used: dict[str, tuple[int, str]] = {}
        """By nonce: until when, and the tenant."""
        self._shares = Shares(REMEMBERED_MAX)
        self._outcomes = Counter(
            "backstop_tickets_total", "Tickets for live streams, by result.", ("result",), registry=registry
        )

    def issue(self, caller: Caller, path: str) -> Ticket:
        """A ticket for the decoded `path`. The caller has checked the path against `STREAM_PATH`."""
        at_ms, nonce = self._now_ms(), self._random_hex(NONCE_BITS)
        signed = f"{caller.key_id or _DEVELOPMENT}_{at_ms}_{nonce}"
        known = self._known(caller.key_id or _DEVELOPMENT)
        proof = known[1] if known is not None else ""  # the key was revoked meanwhile: `redeem` refuses the ticket
        self._outcomes.labels("issued").inc()
        return Ticket(f"bst_{signed}_{_mac(self._secrets[0], proof, signed, path)}", at_ms + round(TICKET_S * 1000))

    def redeem(self, text: str, path: str, address: str = "") -> Caller | None:
        """The caller that the ticket stands for; None if it is refused, for any reason. An accepted ticket is used up.

        :raises Refusal: 503, the tenant used its share of `REMEMBERED_MAX` tickets within a minute.
        """
        caller = self._redeem(text, path, address)
        self._outcomes.labels("accepted" if caller is not None else "refused").inc()
        return caller

    def _redeem(self, text: str, path: str, address: str) -> Caller | None:
        found = _TICKET.fullmatch(text)
        if found is None:
            return None
        key_id, stamp, nonce, mac = found.groups()
        known = self._known(key_id, address)
        proof = known[1] if known is not None else ""
        signed = f"{key_id}_{stamp}_{nonce}"
        genuine = any(hmac.compare_digest(_mac(secret, proof, signed, path), mac) for secret in self._secrets)
        if known is None or not genuine or not self._in_time(int(stamp)) or nonce in self._used:
            return None
        self._remember(nonce, int(stamp) + round(TICKET_S * 1000), known[0].tenant)
        return known[0]

    def _known(self, key_id: str, address: str | None = None) -> tuple[Caller, str] | None:
        """The caller with this key, and the key's hash, which enters the signature. None: the key is not valid."""
        if key_id == _DEVELOPMENT:
            developer = self._keys.caller_without_key()
            return None if developer is None else (developer, "")
        key = self._keys.live_key(key_id)
        if key is not None and address is not None and not allowed(address, key.addresses):
            return None
        return None if key is None else (Caller(key.tenant, key.scopes, key.id), key.sha256)

    def _in_time(self, at_ms: int) -> bool:
        now_ms = self._now_ms()
        began_ms = now_ms - (self._now_s() - self._began_s) * 1000
        return max(began_ms, now_ms - TICKET_S * 1000) <= at_ms <= now_ms + SKEW_MS

    def _remember(self, nonce: str, until_ms: int, tenant: str) -> None:
        now_ms = self._now_ms()
        # In order of use, not of expiry: keeping one a little longer is harmless.
        while self._used and next(iter(self._used.values()))[0] + SKEW_MS < now_ms:
            _, of = self._used.pop(next(iter(self._used)))
            self._shares.give_back((of,))
        if not self._shares.ask_sparing((tenant,)):
            raise unavailable(
                "too_many_tickets", "Too many tickets were used within a minute; try again.", round(TICKET_S / 4)
            )
        self._used[nonce] = until_ms, tenant


def claimed_key_id(text: str) -> str:
    """The id of the key with which the ticket claims to be made; empty if it has not the form of a ticket."""
    found = _TICKET.fullmatch(text)
    return found[1] if found is not None else ""


def _mac(secret: bytes, proof: str, signed: str, path: str) -> str:
    key = hmac.digest(secret, _PURPOSE + proof.encode(), hashlib.sha256)
    return hmac.digest(key, f"{signed}\n{path}".encode(), hashlib.sha256).hex()
