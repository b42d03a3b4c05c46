"""Tickets for live streams: a browser's `EventSource` can't send a key, and a key must never stand in a URL.

A ticket opens one path for one key, once, within a minute. It is signed, not stored, so any receiver that has the same ticket
secrets and keys takes it; forging one needs both a ticket secret and the hash of the key. That it was used is remembered by
the process that took it: behind n receivers a ticket that leaked opens its stream n times at most, within that minute. A
process takes no ticket from before its own start, as it can't know what it took then.
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
from receiver.access.addresses import allowed
from receiver.access.keys import Caller
from receiver.problems import unavailable

TICKET_S: Final = 60.0
SKEW_MS: Final = 5_000
"""How far the clock of the receiver that made a ticket may be ahead of ours."""
REMEMBERED_MAX: Final = 50_000
"""Used tickets of the last minute, about 10 MB. Beyond it streams are refused for a moment, not forgotten about."""
NONCE_BITS: Final = 128
STREAM_PATH: Final = re.compile(r"/v1/(events|jobs/[^/?#]+/(events|stream)|sessions/[^/?#]+/events)")
"""What a ticket may be made for."""

_TICKET = re.compile(r"bst_([0-9a-f]{12}|dev)_([0-9]{1,15})_([0-9a-f]{32})_([0-9a-f]{64})")
_DEVELOPMENT = "dev"
_PURPOSE: Final = b"backstop/ticket/1\n"


@dataclass(frozen=True, slots=True)
class Ticket:
    text: str
    expires_at_ms: int


class Keys(Protocol):
    """The keys that are valid now."""

    def live_key(self, key_id: str) -> ApiKey | None: ...

    def caller_without_key(self) -> Caller | None:
        """Who speaks where there are no keys at all; None where there are."""


class Tickets:
    def __init__(
        self, secrets: Sequence[bytes], keys: Keys, now_ms: NowMs, random_hex: RandomHex,
        registry: CollectorRegistry, now_s: Callable[[], float] = monotonic_s,
    ) -> None:  # fmt: skip
        """The first of `secrets` signs, all are accepted. `now_s` says for how long we have been running."""
        assert secrets, "one is drawn where none is set"
        self._secrets = list(secrets)
        self._keys = keys
        self._now_ms = now_ms
        self._random_hex = random_hex
        self._now_s = now_s
        self._began_s = now_s()
        self._used: dict[str, int] = {}
        self._outcomes = Counter(
            "backstop_tickets_total", "Tickets for live streams, by what came of them.", ("result",), registry=registry
        )

    def issue(self, caller: Caller, path: str) -> Ticket:
        """For `path`, as it is after decoding; the caller has seen that `STREAM_PATH` takes it."""
        at_ms, nonce = self._now_ms(), self._random_hex(NONCE_BITS)
        signed = f"{caller.key_id or _DEVELOPMENT}_{at_ms}_{nonce}"
        known = self._known(caller.key_id or _DEVELOPMENT)
        proof = known[1] if known is not None else ""  # a key that was revoked since it asked: no ticket of it is taken
        self._outcomes.labels("issued").inc()
        return Ticket(f"bst_{signed}_{_mac(self._secrets[0], proof, signed, path)}", at_ms + round(TICKET_S * 1000))

    def redeem(self, text: str, path: str, address: str = "") -> Caller | None:
        """Who may open `path` with it; None, for whatever reason, is nobody. From then on it is used up.

        :raises Refusal: 503, too many were used within a minute.
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
        self._remember(nonce, int(stamp) + round(TICKET_S * 1000))
        return known[0]

    def _known(self, key_id: str, address: str | None = None) -> tuple[Caller, str] | None:
        """Who has this key, and what must be known in order to sign for it."""
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

    def _remember(self, nonce: str, until_ms: int) -> None:
        now_ms = self._now_ms()
        # In the order of use, not of expiry: what stays a little longer than it must does no harm.
        while self._used and next(iter(self._used.values())) + SKEW_MS < now_ms:
            self._used.pop(next(iter(self._used)))
        if len(self._used) >= REMEMBERED_MAX:
            raise unavailable(
                "too_many_tickets", "Too many live streams were opened within a minute.", round(TICKET_S / 4)
            )
        self._used[nonce] = until_ms


def _mac(secret: bytes, proof: str, signed: str, path: str) -> str:
    key = hmac.digest(secret, _PURPOSE + proof.encode(), hashlib.sha256)
    return hmac.digest(key, f"{signed}\n{path}".encode(), hashlib.sha256).hex()
