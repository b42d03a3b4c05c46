"""Delivers webhooks over one pooled client: limited concurrency, retries by the schedule, a ledger line for
each try.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from backstop.simulator.clock import Clock, Timers
from backstop.simulator.config import EndpointProfile, WebhookProfile
from backstop.simulator.ledgers import LineLedger
from backstop.simulator.signing import signature

LARGE_BYTES: Final = 1 << 20  # above that, aiohttp wants a file and not bytes
USER_AGENT: Final = "OpenAI/1.0 (+https://platform.openai.com/docs/webhooks)"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Webhook:
    """One event to be delivered to every endpoint. `names` are the ledger's fields for what it is about."""

    event_id: str
    type: str
    body: bytes
    ended_at_ms: int
    names: Mapping[str, str | None]
    variant: str | None = None
    authentic: bool = True
    # For forgeries: another body than the signed one, another key, a shifted timestamp, no signature.
    sent_body: bytes | None = None
    key: bytes | None = None
    shift_s: int = 0
    unsigned: bool = False


@dataclass(slots=True)
class Target:
    """An endpoint, and whether it is still enabled."""

    endpoint: EndpointProfile
    keys: tuple[bytes, ...]
    failures: int = 0
    disabled: bool = False


@dataclass(slots=True)
class SentWebhook:
    """One webhook on its way to one endpoint."""

    webhook: Webhook
    target: Target
    webhook_id: str
    timestamp_s: int
    attempt: int = 0
    first_try: asyncio.Event | None = None


@dataclass(slots=True)
class DeliveryCounts:
    """Totals since the start."""

    outcomes: dict[str, int] = field(default_factory=dict)

    def count(self, outcome: str) -> None:
        """Count one more `outcome`."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


class Deliverer:
    """Sends webhooks. `pending` counts deliveries that are under way or wait for their next try."""

    def __init__(self, profile: WebhookProfile, clock: Clock, timers: Timers, ledger: LineLedger) -> None:
        self.profile = profile
        self.targets: list[Target] = []
        self.counts = DeliveryCounts()
        self.pending = 0
        self._clock = clock
        self._timers = timers
        self._ledger = ledger
        self._ready: deque[SentWebhook] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    def use(self, endpoints: tuple[EndpointProfile, ...]) -> None:
        """Deliver to these endpoints from now on; deliveries under way keep their endpoint."""
        self.targets = [Target(endpoint, endpoint.keys) for endpoint in endpoints]

    def start(self) -> None:
        """Open the client; needs a running loop."""
        # The number of connections is bounded by the number of tasks.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=15)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def close(self) -> None:
        """Drop the deliveries under way, and close the client."""
        self._ready.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def send(self, webhook: Webhook, webhook_id: str, target: Target, first_try: asyncio.Event | None = None) -> None:
        """Deliver `webhook` to `target`, with retries. Above the limit of pending ones it is dropped and recorded."""
        delivery = SentWebhook(webhook, target, webhook_id, self._clock.wall_ms() // 1000, first_try=first_try)
        if self.pending >= self.profile.pending_max:
            self._record(delivery, "dropped", None, 0)
            if first_try is not None:
                first_try.set()
            return
        self.pending += 1
        self._timers.after(self._clock.real_s(self.profile.schedule_s[0]), self._enqueue, delivery)

    def record_lost(self, webhook: Webhook, webhook_id: str, target: Target) -> None:
        """Record a webhook that is never sent."""
        self._record(SentWebhook(webhook, target, webhook_id, 0), "lost", None, 0)

    def _enqueue(self, delivery: SentWebhook) -> None:
        self._ready.append(delivery)
        if len(self._tasks) < self.profile.concurrency:
            task = asyncio.get_running_loop().create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _drain(self) -> None:
        while self._ready:
            delivery = self._ready.popleft()
            try:
                await self._try(delivery)
            except Exception:
                # One failed delivery must not stop the following ones.
                _log.exception("a delivery failed with an unexpected error")
                self._record(delivery, "error", None, 0)
                self.pending -= 1
            finally:
                if delivery.first_try is not None:
                    delivery.first_try.set()

    async def _try(self, delivery: SentWebhook) -> None:
        if delivery.target.disabled:
            self._record(delivery, "disabled", None, 0)
            self.pending -= 1
            return
        delivery.attempt += 1
        if self.profile.restamp:
            delivery.timestamp_s = self._clock.wall_ms() // 1000
        started_s = self._clock.now_s()
        outcome, status = await self._post(delivery)
        self._record(delivery, outcome, status, round((self._clock.now_s() - started_s) * 1000))
        if outcome == "delivered":
            delivery.target.failures = 0
            self.pending -= 1
            return
        self._after_failure(delivery, status)

    async def _post(self, delivery: SentWebhook) -> tuple[str, int | None]:
        assert self._session is not None
        webhook = delivery.webhook
        timestamp_s = delivery.timestamp_s + webhook.shift_s
        keys = delivery.target.keys if webhook.key is None else (webhook.key,)
        headers = {
            "user-agent": USER_AGENT,
            "content-type": "application/json",
            "webhook-id": delivery.webhook_id,
            "webhook-timestamp": str(timestamp_s),
        }
        if not webhook.unsigned:
            headers["webhook-signature"] = signature(keys, delivery.webhook_id, timestamp_s, webhook.body)
        sent = webhook.body if webhook.sent_body is None else webhook.sent_body
        body = io.BytesIO(sent) if len(sent) > LARGE_BYTES else sent
        timeout = aiohttp.ClientTimeout(total=self.profile.timeout_real_s)
        try:
            async with self._session.post(
                delivery.target.endpoint.url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                # The body is not used; reading some of it keeps the connection usable.
                with contextlib.suppress(aiohttp.ClientError):
                    await answer.content.read(65_536)
                done = answer.status == 200 if self.profile.ok == "200" else 200 <= answer.status < 300
                return ("delivered" if done else "refused"), answer.status
        except TimeoutError:
            return "timeout", None
        except (aiohttp.ClientError, OSError):
            return "error", None

    def _after_failure(self, delivery: SentWebhook, status: int | None) -> None:
        target, profile = delivery.target, self.profile
        target.failures += 1
        too_many = profile.disable_after_failures and target.failures >= profile.disable_after_failures
        if (status == 410 and profile.disable_on_410) or too_many:
            target.disabled = True
        # A forgery is not retried: the receiver refuses it each time.
        if delivery.attempt >= len(profile.schedule_s) or not delivery.webhook.authentic:
            if delivery.webhook.authentic:
                self._record(delivery, "gave_up", None, 0)
            self.pending -= 1
            return
        wait_s = self._clock.real_s(profile.schedule_s[delivery.attempt])
        self._timers.after(max(wait_s, profile.retry_min_real_s), self._enqueue, delivery)

    def _record(self, delivery: SentWebhook, outcome: str, status: int | None, took_ms: int) -> None:
        webhook = delivery.webhook
        self.counts.count(outcome)
        self._ledger.write(
            webhook_id=delivery.webhook_id,
            event_id=webhook.event_id,
            response=webhook.names.get("response"),
            job=webhook.names.get("job"),
            type=webhook.type,
            url=delivery.target.endpoint.url,
            attempt=delivery.attempt,
            outcome=outcome,
            status=status,
            variant=webhook.variant,
            authentic=webhook.authentic,
            delay_ms=self._clock.wall_ms() - took_ms - webhook.ended_at_ms,
            took_ms=took_ms,
        )
