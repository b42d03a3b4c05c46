"""Makes the events of ended responses, with the faults of the profile."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from backstop.simulator.catalogue import FORGERIES, ODDITIES, ArmedFault
from backstop.simulator.chance import Chance, Faults
from backstop.simulator.clock import Clock, Timers
from backstop.simulator.config import Profile
from backstop.simulator.delivery import Deliverer, Webhook
from backstop.simulator.errors import ConfigError
from backstop.simulator.ids import hex_id, response_id
from backstop.simulator.records import Stored

REORDERED_S_MAX: Final = 5.0
HUGE_BYTES: Final = 3 << 20
STALE_S: Final = 3600
_BESIDE: Final = (*FORGERIES, *ODDITIES)
VARIANTS: Final = ("twice", *_BESIDE)


class WebhookSender:
    """Sends webhooks for ended responses. `held_real_s` returns how long the platform holds webhooks back now."""

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
        """Send the webhook for the end of `stored`, subject to faults."""
        if not self._deliverer.targets:
            if first_try is not None:
                first_try.set()
            return
        webhook = _true_webhook(f"response.{stored.status}", stored.id, stored.ended_at_ms, stored.names())
        wait_s = self._fated_wait_s(stored)
        now_s = self._clock.now_s()
        if wait_s is None or now_s < self.lost_until_s:
            for target in self._deliverer.targets:
                self._deliverer.record_lost(webhook, hex_id("wh"), target)
            if first_try is not None:
                first_try.set()
        else:
            held_s = max(self.held_until_s - now_s, 0.0)
            copies = 2 if self._strikes(stored, "webhook_twice") else 1
            self._send_after(self._clock.real_s(wait_s) + held_s, webhook, copies, first_try)
        for what in _BESIDE:
            if self._strikes(stored, f"webhook_{what}"):
                self._send_after(0.0, disguise(webhook, what), 1)

    def emit(
        self, kind: str, response: str, variant: str | None, body: bytes | None, webhook_id: str | None
    ) -> list[str]:
        """Send any webhook now, also without an event; returns its webhook ids, one per endpoint."""
        if variant is not None and variant not in VARIANTS:
            raise ConfigError(f"variant: {variant!r} is not one of {', '.join(VARIANTS)}")
        webhook = _true_webhook(kind, response, self._clock.wall_ms(), {"response": response})
        if body is not None:
            webhook = replace(webhook, body=body, variant="body")
        if variant not in (None, "twice"):
            webhook = disguise(webhook, variant)
        return self._send(webhook, 2 if variant == "twice" else 1, webhook_id=webhook_id)

    def _strikes(self, stored: Stored, name: str) -> ArmedFault | None:
        return self._faults.named(name, stored.target, f"{stored.key}/{stored.status}", stored.request.directives)

    def _fated_wait_s(self, stored: Stored) -> float | None:
        """Simulated seconds until the webhook is sent; None = never."""
        if (stored.ending is not None and not stored.ending.webhook) or self._strikes(stored, "webhook_lost"):
            return None
        if late := self._strikes(stored, "webhook_late"):
            return late.number(self._chance.seconds(self.profile.late, "late", stored.key))
        if self._strikes(stored, "webhook_reordered"):
            return self._chance.unit("reordered", stored.key) * REORDERED_S_MAX
        return 0.0

    def _send_after(self, real_s: float, webhook: Webhook, copies: int, first_try: asyncio.Event | None = None) -> None:
        if real_s > 0:
            self._timers.after(real_s, self._send, webhook, copies, first_try)
        else:
            self._send(webhook, copies, first_try)

    def _send(
        self, webhook: Webhook, copies: int, first_try: asyncio.Event | None = None, webhook_id: str | None = None
    ) -> list[str]:
        ids = []
        for target in self._deliverer.targets:
            ids.append(webhook_id or hex_id("wh"))
            for _ in range(copies):
                self._deliverer.send(webhook, ids[-1], target, first_try)
        return ids


def _true_webhook(kind: str, response: str, ended_at_ms: int, names: Mapping[str, str | None]) -> Webhook:
    event_id = hex_id("evt")
    body = _event(event_id, kind, response, ended_at_ms)
    return Webhook(event_id, kind, body, ended_at_ms, names)


def _event(event_id: str, kind: str, response: str, ended_at_ms: int) -> bytes:
    event: dict[str, Any] = {
        "id": event_id,
        "object": "event",
        "created_at": ended_at_ms // 1000,
        "type": kind,
        "data": {"id": response},
    }
    return orjson.dumps(event)


def disguise(webhook: Webhook, what: str) -> Webhook:
    """A webhook beside the genuine one: a forgery that must be refused, or an oddity with a valid signature."""
    webhook = replace(webhook, event_id=hex_id("evt"), variant=what, authentic=what not in FORGERIES)
    return _DISGUISES[what](webhook)


def _unknown_type(webhook: Webhook) -> Webhook:
    kind = "video.completed"
    return replace(webhook, type=kind, body=_event(webhook.event_id, kind, hex_id("video"), webhook.ended_at_ms))


def _foreign_id(webhook: Webhook) -> Webhook:
    other = response_id()
    body = _event(webhook.event_id, webhook.type, other, webhook.ended_at_ms)
    return replace(webhook, body=body, names={"response": other})


def _about_another(webhook: Webhook) -> bytes:
    told = webhook.names.get("response") or ""
    return _event(webhook.event_id, webhook.type, f"{told[:5]}0{told[5:]}", webhook.ended_at_ms)


_DISGUISES: Final[dict[str, Callable[[Webhook], Webhook]]] = {
    "forged_secret": lambda webhook: replace(webhook, key=secrets.token_bytes(32)),
    "forged_empty_key": lambda webhook: replace(webhook, key=b""),
    # Still a plausible event: only the response's id is altered.
    "forged_body": lambda webhook: replace(webhook, sent_body=_about_another(webhook)),
    "forged_old": lambda webhook: replace(webhook, shift_s=-STALE_S),
    "forged_future": lambda webhook: replace(webhook, shift_s=STALE_S),
    "forged_unsigned": lambda webhook: replace(webhook, unsigned=True),
    "unknown_type": _unknown_type,
    "foreign_id": _foreign_id,
    "not_json": lambda webhook: replace(webhook, body=b"this is not JSON"),
    "not_utf8": lambda webhook: replace(webhook, body=b'{"id": "\xff\xfe"}'),
    "list": lambda webhook: replace(webhook, body=b'["response.completed"]'),
    "huge": lambda webhook: replace(webhook, body=webhook.body[:-1] + b',"padding":"' + b"x" * HUGE_BYTES + b'"}'),
}
