"""The keys that the doors know at this moment. They follow the keys file; a file that breaks or goes changes nothing.

Without keys nothing starts, unless development was asked for by name (`BACKSTOP_DEVELOPMENT`): there everybody is the default tenant
and may do everything, until there is a keys file. A process that has once seen a file never falls back to that.
"""

from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge

from backstop.runtime.addresses import is_loopback_host
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.http.keys import (
    SCOPES,
    ApiKey,
    KeysFile,
    Scope,
    TenantLimits,
    last_used_path,
    load_keys,
    load_last_used,
    parse_token,
    proves,
    write_private,
)
from backstop.runtime.process.clock import NowMs, monotonic_s
from backstop.runtime.process.logs import get_logger
from receiver.access.access_log import RefusedKeys, Why
from receiver.access.addresses import allowed
from schemas.base import DEFAULT_TENANT

WARNED_EVERY_MS = 86_400_000
POLL_AGAIN_S = 1.0
"""How long a revoked key may still be taken."""

BEARER = "bearer "
NO_LIMITS = TenantLimits()

log = get_logger("receiver.access.keys")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is speaking, as the key says."""

    tenant: str
    scopes: frozenset[Scope]
    key_id: str
    """Empty in development, where there are no keys."""


DEVELOPER = Caller(DEFAULT_TENANT, SCOPES, "")


@dataclass(frozen=True, slots=True)
class _NotTaken:
    """Why, an operator may know; the caller hears the same in any case."""

    key_id: str
    """As it was claimed."""
    why: Why


class KeyRing:
    """The keys file as it was last read, looked at again at most once in `POLL_AGAIN_S`."""

    def __init__(
        self, path: Path, host: str, now_ms: NowMs, registry: CollectorRegistry, *, development: bool = False
    ) -> None:
        """:raises ConfigurationError: no file, or one that holds no keys, and no `development`; or that beyond a loopback address."""
        self._path = path
        self._now_ms = now_ms
        self._stamp: tuple[int, int, int] | None = None
        self._polled_at_s = monotonic_s()
        self._complained: str | None = None
        self._by_id: dict[str, ApiKey] = {}
        self._tenants: dict[str, TenantLimits] = {}
        self._used_at_ms: dict[str, int] = {}
        self._saved_at_ms: dict[str, int] = {}
        self._told = RefusedKeys()
        self._warned_at_ms: dict[str, int] = {}
        self._outcomes = Counter(
            "backstop_authentications_total", "Requests that needed a key, by outcome.", ("result",), registry=registry
        )
        self._counts = Gauge(
            "backstop_api_keys",
            "Keys in the keys file, by state; expiring ones are live, too.",
            ("state",),
            registry=registry,
        )
        self.development = False
        if development and not is_loopback_host(host):
            raise ConfigurationError(
                f"BACKSTOP_DEVELOPMENT is set, and BACKSTOP_HOST={host} is not a loopback address: everybody who reaches it could "
                "do everything. Set BACKSTOP_HOST=127.0.0.1, or unset BACKSTOP_DEVELOPMENT and make a key "
                "(`backstop keys create --tenant NAME`)"
            )
        try:
            self._stamp = self._stamped()
            content = load_keys(path)
        except FileNotFoundError:
            if not development:
                raise ConfigurationError(
                    f"there is no keys file at {path}: make a key (`backstop keys create --tenant NAME`), or set BACKSTOP_KEYS_FILE. "
                    "On one's own machine BACKSTOP_DEVELOPMENT=true serves without keys"
                ) from None
            self.development = True
            log.warning("development_without_keys", host=host, keys_file=str(path), tenant=DEFAULT_TENANT)
            return
        if not content.keys:
            raise ConfigurationError(
                f"the keys file {path} holds no keys, so that nobody could call: make one (`backstop keys create --tenant NAME`)"
            )
        self._take(content)

    def authenticate(self, authorization: str | None, address: str = "") -> Caller | None:
        """Who sent this `Authorization` header from there; None, for whatever reason, is nobody."""
        self._follow()
        if self.development:
            return DEVELOPER
        key = self._judged(authorization, address)
        self._outcomes.labels("accepted" if isinstance(key, ApiKey) else "refused").inc()
        if not isinstance(key, ApiKey):
            self._told.tell(key.key_id, address, key.why)
            return None
        self._used_at_ms[key.id] = self._now_ms()
        return Caller(key.tenant, key.scopes, key.id)

    def live_key(self, key_id: str) -> ApiKey | None:
        """The key of this id, while it is valid."""
        self._follow()
        key = self._by_id.get(key_id)
        return key if key is not None and key.state(self._now_ms()) == "live" else None

    def caller_without_key(self) -> Caller | None:
        """Who speaks where there are no keys at all; None where there are."""
        self._follow()
        return DEVELOPER if self.development else None

    def still_allows(self, caller: Caller, scope: Scope) -> bool:
        """Whether a caller that was let in would be let in now, for this."""
        if not caller.key_id:
            return self.caller_without_key() is not None
        key = self.live_key(caller.key_id)
        return key is not None and key.tenant == caller.tenant and scope in key.scopes

    def limits_of(self, tenant: str) -> TenantLimits:
        return self._tenants.get(tenant, NO_LIMITS)

    def warn_of_ends(self) -> None:
        """Say once a day which keys end soon, so that their successors are made in time."""
        now_ms = self._now_ms()
        self._count(now_ms)
        for key in self._by_id.values():
            if key.expires_soon(now_ms) and now_ms - self._warned_at_ms.get(key.id, 0) >= WARNED_EVERY_MS:
                self._warned_at_ms[key.id] = now_ms
                log.warning("key_expires_soon", key_id=key.id, tenant=key.tenant, expires_at=str(key.expires_at))

    def save_last_used(self) -> None:
        """Leave beside the file when each key was used last, merged with what other processes left there. Best effort."""
        if self._used_at_ms == self._saved_at_ms:
            return
        merged = load_last_used(self._path)
        for key_id, at_ms in self._used_at_ms.items():
            merged[key_id] = max(at_ms, merged.get(key_id, 0))
        lines = ",".join(f'"{key_id}":{at_ms}' for key_id, at_ms in sorted(merged.items()) if key_id in self._by_id)
        try:
            write_private(last_used_path(self._path), f"{{{lines}}}\n".encode())
        except OSError as error:  # a read-only mount, most likely: that the keys work matters, this does not
            log.debug("last_used_not_saved", error_type=type(error).__name__)
        self._saved_at_ms = dict(self._used_at_ms)

    def _judged(self, authorization: str | None, address: str) -> "ApiKey | _NotTaken":
        if authorization is None or authorization[: len(BEARER)].lower() != BEARER:
            return _NotTaken("", "no_key")
        token = parse_token(authorization[len(BEARER) :].strip())
        if token is None:
            return _NotTaken("", "malformed")
        key = self._by_id.get(token.key_id)
        if not proves(token, key) or key is None:
            return _NotTaken(token.key_id, "unknown_key" if key is None else "wrong_secret")
        state = key.state(self._now_ms())
        if state != "live":
            return _NotTaken(key.id, state)
        return key if allowed(address, key.addresses) else _NotTaken(key.id, "address")

    def _follow(self) -> None:
        now_s = monotonic_s()
        if now_s - self._polled_at_s < POLL_AGAIN_S:
            return
        self._polled_at_s = now_s
        stamp = self._stamped()
        if stamp is None:
            if not self.development:
                self._complain("keys_file_gone", "the keys file is gone; the keys that were in it stay")
            return
        if stamp == self._stamp:
            return
        self.development = False  # whoever puts a file there wants keys, even if this one is broken
        try:
            self._take(load_keys(self._path))
        except (ConfigurationError, OSError) as error:
            self._complain("keys_file_broken", f"{error}; the keys stay as they were")
            return
        self._stamp = stamp
        self._complained = None
        log.info("keys_read", keys=len(self._by_id))

    def _stamped(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _take(self, content: KeysFile) -> None:
        self._by_id = {key.id: key for key in content.keys}
        self._tenants = dict(content.tenants)
        self._count(self._now_ms())

    def _count(self, now_ms: int) -> None:
        keys = self._by_id.values()
        for state in ("live", "expired", "revoked"):
            self._counts.labels(state).set(sum(key.state(now_ms) == state for key in keys))
        self._counts.labels("expiring").set(sum(key.expires_soon(now_ms) for key in keys))

    def _complain(self, event: str, sentence: str) -> None:
        if self._complained != sentence:
            self._complained = sentence
            log.error(event, reason=sentence)
