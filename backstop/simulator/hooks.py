"""Makes the events of ended responses, and lets the faults of the profile befall them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from backstop.simulator.catalogue import FORGERIES, ODDITIES, Fault
from backstop.simulator.chance import Chance, Faults
from backstop.simulator.clock import Clock, Timers
from backstop.simulator.config import Profile
from backstop.simulator.delivery import Deliverer, Hook
from backstop.simulator.errors import ConfigError
from backstop.simulator.ids import hex_id, response_id
from backstop.simulator.records import Stored

REORDERED_S_MAX: Final = 5.0
HUGE_BYTES: Final = 3 << 20
STALE_S: Final = 3600
_BESIDE: Final = (*FORGERIES, *ODDITIES)
VARIANTS: Final = ("twice", *_BESIDE)


class Hooks:
    """Announces ends of responses to the endpoints. `held_real_s` says how long the platform holds hooks back now."""

    def __init__(
        self, profile: Profile, chance: Chance, faults: Faults, clock: Clock, timers: Timers, deliverer: Deliverer
    ) -> None:
        self.profile = profile
        self.held_until_s = 0.0
        self.lost_until_s = 0.0
        self._chance = chance
        self._faults = faults
        self._clock = clock
        self._timers = timers
        self._deliverer = deliverer

    def announce(self, stored: Stored, first_try: asyncio.Event | None = None) -> None:
        """Send the hook for the end of `stored`, as the faults will have it."""
        if not self._deliverer.targets:
            if first_try is not None:
                first_try.set()
            return
        hook = _true_hook(f"response.{stored.status}", stored.id, stored.ended_at_ms, stored.names())
        wait_s = self._fated_wait_s(stored)
        now_s = self._clock.now_s()
        if wait_s is None or now_s < self.lost_until_s:
            for target in self._deliverer.targets:
                self._deliverer.record_lost(hook, hex_id("wh"), target)
            if first_try is not None:
                first_try.set()
        else:
            held_s = max(self.held_until_s - now_s, 0.0)
            copies = 2 if self._strikes(stored, "hook_twice") else 1
            self._send_after(self._clock.real_s(wait_s) + held_s, hook, copies, first_try)
        for what in _BESIDE:
            if self._strikes(stored, f"hook_{what}"):
                self._send_after(0.0, disguise(hook, what), 1)

    def emit(
        self, kind: str, response: str, variant: str | None, body: bytes | None, webhook_id: str | None
    ) -> list[str]:
        """Send any hook now, also one that nothing happened for; its webhook ids, one for each endpoint."""
        if variant is not None and variant not in VARIANTS:
            raise ConfigError(f"variant: {variant!r} is not one of {', '.join(VARIANTS)}")
        hook = _true_hook(kind, response, self._clock.wall_ms(), {"response": response})
        if body is not None:
            hook = replace(hook, body=body, variant="body")
        if variant not in (None, "twice"):
            hook = disguise(hook, variant)
        return self._send(hook, 2 if variant == "twice" else 1, webhook_id=webhook_id)

    def _strikes(self, stored: Stored, name: str) -> Fault | None:
        return self._faults.named(name, stored.target, f"{stored.key}/{stored.status}", stored.request.directives)

    def _fated_wait_s(self, stored: Stored) -> float | None:
        """Simulated seconds until the hook is sent; None = never."""
        if (stored.ending is not None and not stored.ending.hook) or self._strikes(stored, "hook_lost"):
            return None
        if late := self._strikes(stored, "hook_late"):
            return late.number(self._chance.seconds(self.profile.late, "late", stored.key))
        if self._strikes(stored, "hook_reordered"):
            return self._chance.unit("reordered", stored.key) * REORDERED_S_MAX
        return 0.0

    def _send_after(self, real_s: float, hook: Hook, copies: int, first_try: asyncio.Event | None = None) -> None:
        if real_s > 0:
            self._timers.after(real_s, self._send, hook, copies, first_try)
        else:
            self._send(hook, copies, first_try)

    def _send(
        self, hook: Hook, copies: int, first_try: asyncio.Event | None = None, webhook_id: str | None = None
    ) -> list[str]:
        ids = []
        for target in self._deliverer.targets:
            ids.append(webhook_id or hex_id("wh"))
            for _ in range(copies):
                self._deliverer.send(hook, ids[-1], target, first_try)
        return ids


def _true_hook(kind: str, response: str, ended_at_ms: int, names: Mapping[str, str | None]) -> Hook:
    event_id = hex_id("evt")
    body = _event(event_id, kind, response, ended_at_ms)
    return Hook(event_id, kind, body, ended_at_ms, names)


def _event(event_id: str, kind: str, response: str, ended_at_ms: int) -> bytes:
    event: dict[str, Any] = {
        "id": event_id,
        "object": "event",
        "created_at": ended_at_ms // 1000,
        "type": kind,
        "data": {"id": response},
    }
    return orjson.dumps(event)


def disguise(hook: Hook, what: str) -> Hook:
    """A hook beside the true one: a forgery that must be refused, or an oddity that is signed as it should be."""
    hook = replace(hook, event_id=hex_id("evt"), variant=what, authentic=what not in FORGERIES)
    return _DISGUISES[what](hook)


def _unknown_type(hook: Hook) -> Hook:
    kind = "video.completed"
    return replace(hook, type=kind, body=_event(hook.event_id, kind, hex_id("video"), hook.ended_at_ms))


def _foreign_id(hook: Hook) -> Hook:
    other = response_id()
    body = _event(hook.event_id, hook.type, other, hook.ended_at_ms)
    return replace(hook, body=body, names={"response": other})


def _about_another(hook: Hook) -> bytes:
    told = hook.names.get("response") or ""
    return _event(hook.event_id, hook.type, f"{told[:5]}0{told[5:]}", hook.ended_at_ms)


_DISGUISES: Final[dict[str, Callable[[Hook], Hook]]] = {
    "forged_secret": lambda hook: replace(hook, key=secrets.token_bytes(32)),
    "forged_empty_key": lambda hook: replace(hook, key=b""),
    # Still an event that would be believed: what is altered is the id it speaks of.
    "forged_body": lambda hook: replace(hook, sent_body=_about_another(hook)),
    "forged_old": lambda hook: replace(hook, shift_s=-STALE_S),
    "forged_future": lambda hook: replace(hook, shift_s=STALE_S),
    "forged_unsigned": lambda hook: replace(hook, unsigned=True),
    "unknown_type": _unknown_type,
    "foreign_id": _foreign_id,
    "not_json": lambda hook: replace(hook, body=b"this is not JSON"),
    "not_utf8": lambda hook: replace(hook, body=b'{"id": "\xff\xfe"}'),
    "list": lambda hook: replace(hook, body=b'["response.completed"]'),
    "huge": lambda hook: replace(hook, body=hook.body[:-1] + b',"padding":"' + b"x" * HUGE_BYTES + b'"}'),
}
