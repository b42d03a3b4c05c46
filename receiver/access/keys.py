"""The API keys in memory. They follow the keys file; if it becomes unreadable or disappears, the last keys stay.

Without keys the process does not start, unless `BACKSTOP_DEVELOPMENT` is set: then each caller is the default tenant
with all scopes, until a keys file appears. A process that has seen a keys file never returns to development.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge

from backstop.runtime.addresses import is_loopback_host
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.http.keys import (
    SCOPES,
    ApiKey,
    InSteps,
    KeysReader,
    Scope,
    TenantLimits,
    at_once,
    keys_text,
    last_used_path,
    load_last_used,
    parse_token,
    proves,
    steps,
    write_private,
)
from backstop.runtime.process.clock import NowMs, monotonic_s
from backstop.runtime.process.logs import get_logger
from receiver.access.access_log import RefusedKeys, Why
from receiver.access.addresses import allowed
from receiver.access.key_table import KeyTable
from schemas.base import DEFAULT_TENANT, Priority

WARNED_EVERY_MS = 86_400_000
WARNED_AT_ONCE = 100
STEPS_S = 0.005
"""How long the loop is held up at one time while a changed file is read."""

POLL_AGAIN_S = 1.0
"""How often the keys file is checked: a revoked key may be accepted for this long."""

BEARER = "bearer "

T = TypeVar("T")

log = get_logger("receiver.access.keys")


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant and the rights that a key gives."""

    tenant: str
    scopes: frozenset[Scope]
    key_id: str
    """Empty in development, where there are no keys."""


DEVELOPER = Caller(DEFAULT_TENANT, SCOPES, "")


@dataclass(frozen=True, slots=True)
class _NotTaken:
    """A refusal with its reason, for the log only: the caller gets the same answer for each."""

    key_id: str
    """As the client claims it."""
    why: Why


async def between_others(work: InSteps[T]) -> T:
    """The result of `work`, done between other work of the loop."""
    found: list[T] = []
    began_s = monotonic_s()
    for _ in steps(work, found):
        if monotonic_s() - began_s >= STEPS_S:
            await asyncio.sleep(0)
            began_s = monotonic_s()
    return found[0]


class KeyRing:
    """The keys of the keys file, which is checked for changes at most once in `POLL_AGAIN_S`.

    A changed file is read step by step between other work of the loop, as thousands of keys would hold it up, in a
    thread, too: parsers hold the interpreter. Meanwhile requests wait (`follow`), so that none with a revoked key is
    accepted.
    """

    def __init__(
        self, path: Path, host: str, now_ms: NowMs, registry: CollectorRegistry, *, development: bool = False
    ) -> None:
        """:raises ConfigurationError: no keys file without `development`; a file without keys; or `development` on a
        `host` that is not a loopback address.
        """
        self._path = path
        self._now_ms = now_ms
        self._stamp: tuple[int, int, int] | None = None
        self._polled_at_s = monotonic_s()
        self._complained: str | None = None
        self._table = KeyTable()
        self._reader = KeysReader(path)
        self._thread = ThreadPoolExecutor(1, "keys-file")  # the threads of all may be in use for long
        self._reading: asyncio.Task[None] | None = None
        self._used_at_ms: dict[str, int] = {}
        self._saved_at_ms: dict[str, int] = {}
        self._told = RefusedKeys()
        self._warned_at_ms: dict[str, int] = {}
        self._outcomes = Counter(
            "backstop_authentications_total", "Requests that needed a key, by outcome.", ("result",), registry=registry
        )
        self._counts = Gauge(
            "backstop_api_keys",
            "Keys in the keys file, by state; expiring ones also count as live.",
            ("state",),
            registry=registry,
        )
        self.development = False
        if development and not is_loopback_host(host):
            raise ConfigurationError(
                f"BACKSTOP_DEVELOPMENT is set, and BACKSTOP_HOST={host} is not a loopback address: any client that "
                "reaches it would have all rights. Set BACKSTOP_HOST=127.0.0.1, or unset BACKSTOP_DEVELOPMENT and "
                "make a key (`backstop keys create --tenant NAME`)"
            )
        try:
            self._stamp = self._stamped()
            table = at_once(self._made(keys_text(path)))
        except FileNotFoundError:
            if not development:
                raise ConfigurationError(
                    f"there is no keys file at {path}: make a key (`backstop keys create --tenant NAME`), or set "
                    "BACKSTOP_KEYS_FILE. On a developer's machine BACKSTOP_DEVELOPMENT=true serves without keys"
                ) from None
            self.development = True
            log.warning("development_without_keys", host=host, keys_file=str(path), tenant=DEFAULT_TENANT)
            return
        if not table:
            raise ConfigurationError(
                f"the keys file {path} holds no keys, so every request would be refused: make a key "
                "(`backstop keys create --tenant NAME`)"
            )
        self._take(table)

    async def follow(self) -> None:
        """Have what the keys file says now, as of at most `POLL_AGAIN_S` ago."""
        self._notice()
        if self._reading is not None:
            await asyncio.wait([self._reading])

    def authenticate(self, authorization: str | None, address: str = "") -> Caller | None:
        """The caller for this `Authorization` header and client address; None if it is refused, for any reason."""
        if self.development:
            return DEVELOPER
        key = self._judged(authorization, address)
        self._outcomes.labels("accepted" if isinstance(key, ApiKey) else "refused").inc()
        if not isinstance(key, ApiKey):
            self._told.tell(key.key_id, address, key.why)
            return None
        self._used_at_ms[key.id] = self._now_ms()
        return Caller(key.tenant, key.scopes, key.id)

    def tell_refused(self, key_id: str, address: str, why: Why) -> None:
        """Log, within bounds, a request that was refused elsewhere. `key_id` as the client claims it."""
        self._told.tell(key_id, address, why)

    def live_key(self, key_id: str) -> ApiKey | None:
        """The key with this id, if it is neither expired nor revoked."""
        key = self._table.key(key_id)
        return key if key is not None and key.state(self._now_ms()) == "live" else None

    def caller_without_key(self) -> Caller | None:
        """The caller in development; None where keys are needed."""
        return DEVELOPER if self.development else None

    def still_allows(self, caller: Caller, scope: Scope, address: str) -> bool:
        """Whether a caller accepted earlier would still be accepted now, for `scope` and from `address`.

        Asked again and again by what waits or streams: it has a changed file read, and hears of it the next time.
        """
        self._notice()
        if not caller.key_id:
            return self.caller_without_key() is not None
        key = self.live_key(caller.key_id)
        return (
            key is not None and key.tenant == caller.tenant and scope in key.scopes and allowed(address, key.addresses)
        )

    def priorities_of(self, key_id: str) -> frozenset[Priority] | None:
        """The priorities that a key may give; None: all."""
        key = self._table.key(key_id)
        return None if key is None else key.priorities

    def limits_of(self, tenant: str) -> TenantLimits:
        return self._table.limits_of(tenant)

    def warn_of_ends(self) -> None:
        """Log keys that expire soon, once a day each, so that the operator replaces them in time.

        Of many the next ones first: a line takes a tenth of a millisecond, and this is called on the loop.
        """
        now_ms = self._now_ms()
        self._count(now_ms)
        due = [
            key for key in self._table.expiring(now_ms) if now_ms - self._warned_at_ms.get(key.id, 0) >= WARNED_EVERY_MS
        ]
        for key in due[:WARNED_AT_ONCE]:
            self._warned_at_ms[key.id] = now_ms
            log.warning("key_expires_soon", key_id=key.id, tenant=key.tenant, expires_at=str(key.expires_at))

    def expiring(self, tenant: str) -> list[str]:
        """The tenant's keys that expire soon, a sentence each."""
        soon = [key for key in self._table.expiring(self._now_ms()) if key.tenant == tenant]
        return [f"key {key.id} expires at {key.expires_at:%Y-%m-%d %H:%M} UTC" for key in soon]

    def save_last_used(self) -> None:
        """Write each key's last use beside the keys file, merged with what other processes wrote. Best effort."""
        used_at_ms = dict(self._used_at_ms)  # requests change it meanwhile: this is a thread
        if used_at_ms == self._saved_at_ms:
            return
        merged = load_last_used(self._path)
        for key_id, at_ms in used_at_ms.items():
            merged[key_id] = max(at_ms, merged.get(key_id, 0))
        lines = ",".join(f'"{key_id}":{at_ms}' for key_id, at_ms in sorted(merged.items()) if key_id in self._table)
        try:
            write_private(last_used_path(self._path), f"{{{lines}}}\n".encode())
        except OSError as error:  # most likely a read-only mount: keys work without it
            log.debug("last_used_not_saved", error_type=type(error).__name__)
        self._saved_at_ms = used_at_ms

    def _judged(self, authorization: str | None, address: str) -> "ApiKey | _NotTaken":
        if authorization is None or authorization[: len(BEARER)].lower() != BEARER:
            return _NotTaken("", "no_key")
        token = parse_token(authorization[len(BEARER) :].strip())
        if token is None:
            return _NotTaken("", "malformed")
        key = self._table.key(token.key_id)
        if not proves(token, key) or key is None:
            return _NotTaken(token.key_id, "unknown_key" if key is None else "wrong_secret")
        state = key.state(self._now_ms())
        if state != "live":
            return _NotTaken(key.id, state)
        return key if allowed(address, key.addresses) else _NotTaken(key.id, "address")

    def _notice(self) -> None:
        """Begin to read the keys file if it has changed, unless it was checked a moment ago."""
        now_s = monotonic_s()
        if self._reading is not None or now_s - self._polled_at_s < POLL_AGAIN_S:
            return
        self._polled_at_s = now_s
        stamp = self._stamped()
        if stamp is None:
            if not self.development:
                self._complain("keys_file_gone", "the keys file is gone; the last keys stay valid")
        elif stamp != self._stamp:
            self.development = False  # a keys file, even a broken one, means that the operator wants keys
            self._reading = asyncio.create_task(self._read(stamp), name="keys-file")

    async def _read(self, stamp: tuple[int, int, int]) -> None:
        try:
            text = await asyncio.get_running_loop().run_in_executor(self._thread, keys_text, self._path)
            self._take(await between_others(self._made(text)))
        except (ConfigurationError, OSError) as error:
            self._complain("keys_file_broken", f"{error}; the last keys stay valid")
            return
        finally:
            self._reading = None
        self._stamp = stamp
        self._complained = None
        log.info("keys_read", keys=len(self._table))

    def _stamped(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _made(self, text: str) -> InSteps[KeyTable]:
        content = yield from self._reader.content(text)
        return (yield from KeyTable.of(content))

    def _take(self, table: KeyTable) -> None:
        self._table = table
        self._count(self._now_ms())

    def _count(self, now_ms: int) -> None:
        for state, count in self._table.counts(now_ms).items():
            self._counts.labels(state).set(count)

    def _complain(self, event: str, sentence: str) -> None:
        if self._complained != sentence:
            self._complained = sentence
            log.error(event, reason=sentence)
