"""Sends due deliveries, and writes the outcome of each attempt to the log before anything follows from it.

The state changes only when that fact is read back: after a crash before it the delivery is still due; after a crash
behind it nothing is left to do.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from backstop.outgoing.deliveries import event_id
from backstop.outgoing.endpoints import Endpoint, Endpoints
from backstop.outgoing.fold import Pending
from backstop.outgoing.metrics import OutgoingMetrics
from backstop.outgoing.policy import AttemptVerdict, Outcome, RetryPolicy, Unanswered, dead_without_attempt, judge
from backstop.outgoing.secrets import SecretKeys
from backstop.outgoing.sender import Sender
from backstop.outgoing.turns import DeliveryTurns
from backstop.outgoing.wire import body_of, headers_of
from backstop.runtime.kafka.acknowledged import publish, until_acknowledged
from backstop.runtime.kafka.reporting import Reporting
from backstop.runtime.process.clock import monotonic_s
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.process.logs import get_logger
from backstop.runtime.release import release
from schemas.base import Message
from schemas.dead_letters import DeadLetter
from schemas.deliveries import DeadBy, DeliveryDead, DeliveryDone
from schemas.traces import TRACEPARENT
from schemas.webhook_endpoints import EndpointSaved, EndpointSwitched

log = get_logger("backstop.outgoing.attempts")

TICK_S = 1.0
TOLD_TO_OPERATORS: frozenset[DeadBy] = frozenset({"gave_up", "gone", "backlog"})
"""Ends that need an operator, and so a dead letter. Where an
endpoint is removed or disabled, its tenant knows already.
"""

Find = Callable[[str], Pending | None]
"""The delivery as the log has it now; None if it is not open, or its partition has moved away."""


@dataclass(frozen=True, slots=True)
class SignedPosts:
    """Sends to an endpoint: its address, the keys that sign, and the connections."""

    endpoints: Endpoints
    secrets: SecretKeys
    sender: Sender


class DeliveryAttempts:
    """Performs attempts until stopped. Set `changed` after each change to `turns`."""

    def __init__(
        self, *, turns: DeliveryTurns, find: Find, posts: SignedPosts, reporting: Reporting[OutgoingMetrics],
        policy: RetryPolicy, waiting_max: int,
    ) -> None:  # fmt: skip
        self._turns = turns
        self._find = find
        self._sender = posts.sender
        self._endpoints = posts.endpoints
        self._secrets = posts.secrets
        self._publisher = reporting.publisher
        self._metrics = reporting.metrics
        self._now_ms = reporting.now_ms
        self._policy = policy
        self._waiting_max = waiting_max
        self._user_agent = f"Backstop/{release()}"
        self.changed = asyncio.Event()

    async def run(self, stop: asyncio.Event, drain_s: float) -> None:
        """Run until `stop`. Running attempts then get `drain_s`; the next process repeats those cut short."""
        async with asyncio.TaskGroup() as tasks:
            stopping = tasks.create_task(stop.wait())
            under_way: set[asyncio.Task[None]] = set()
            while not stop.is_set():
                self.changed.clear()
                while (delivery_id := self._turns.take(self._now_ms())) is not None:
                    task = tasks.create_task(self._attempt(delivery_id), name=f"attempt {delivery_id}")
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                self._metrics.in_flight.set(self._turns.running)
                changing = asyncio.ensure_future(self.changed.wait())
                await asyncio.wait({changing, stopping}, timeout=self._idle_s(), return_when=asyncio.FIRST_COMPLETED)
                changing.cancel()
            if under_way:
                await asyncio.wait(set(under_way), timeout=drain_s)
            for task in under_way:
                task.cancel()

    def _idle_s(self) -> float:
        due_ms = self._turns.next_due_ms()
        # Endpoints may be held too. A fixed tick is cheap, and simpler than the exact time.
        return TICK_S if due_ms is None else min(TICK_S, max(0.001, (due_ms - self._now_ms()) / 1000))

    async def _attempt(self, delivery_id: str) -> None:
        verdict: AttemptVerdict | None = None
        try:
            pending = self._find(delivery_id)
            if pending is not None:
                verdict = await self._verdict(delivery_id, pending)
                await self._report(delivery_id, verdict)
        finally:
            tried = verdict is not None and verdict.tried
            delivered = tried and verdict is not None and isinstance(verdict.fact, DeliveryDone)
            self._turns.over(
                delivery_id,
                succeeded=delivered if tried else None,
                hold_until_ms=verdict.hold_until_ms if verdict else 0,
            )
            self.changed.set()

    async def _verdict(self, delivery_id: str, pending: Pending) -> AttemptVerdict:
        endpoint = await self._endpoint(pending.delivery.endpoint_id)
        saved = endpoint.saved if endpoint is not None and not endpoint.removed else None
        if endpoint is None or saved is None:
            return self._given_up(delivery_id, pending, "removed")
        if not endpoint.enabled:
            return self._given_up(delivery_id, pending, "disabled")
        if self._turns.waiting_of(endpoint.id) >= self._waiting_max:
            return self._given_up(delivery_id, pending, "backlog")
        failpoint("outgoing.taken")
        began_s, now_ms = monotonic_s(), self._now_ms()
        self._metrics.delay_seconds.observe(max(0, now_ms - pending.due_ms) / 1000)
        outcome = await self._send(delivery_id, pending, saved, now_ms)
        self._metrics.attempt_seconds.observe(monotonic_s() - began_s)
        failpoint("outgoing.answered")
        verdict = judge(pending, delivery_id, outcome, self._policy, self._now_ms())
        fact = verdict.fact
        result = "delivered" if isinstance(fact, DeliveryDone) else fact.failed_by or "status"
        self._metrics.attempts.labels(result).inc()
        if result != "delivered":
            log.info(
                "attempt_failed", delivery_id=delivery_id, endpoint_id=endpoint.id, tenant=pending.delivery.tenant,
                attempt=fact.attempt, failed_by=result, status=fact.status,
            )  # fmt: skip
        return verdict

    def _given_up(self, delivery_id: str, pending: Pending, dead_by: DeadBy) -> AttemptVerdict:
        return AttemptVerdict(dead_without_attempt(pending, delivery_id, dead_by, self._now_ms()), tried=False)

    async def _endpoint(self, endpoint_id: str) -> Endpoint | None:
        found = self._endpoints.book.by_id.get(endpoint_id)
        if found is None or found.saved is None:
            # A newer registration, known to the process that planned the delivery.
            await until_acknowledged(self._endpoints.catch_up, "outgoing")
            found = self._endpoints.book.by_id.get(endpoint_id)
        return found

    async def _send(self, delivery_id: str, pending: Pending, saved: EndpointSaved, now_ms: int) -> Outcome:
        secrets = [
            self._secrets.secret(saved.endpoint_id, ref)
            for ref in saved.secrets
            if ref.until_ms is None or ref.until_ms > now_ms
        ]
        known = [secret for secret in secrets if secret is not None]
        if not known or secrets[0] is None:
            log.error("signing_key_missing", endpoint_id=saved.endpoint_id, key_id=saved.secrets[0].key_id)
            return Unanswered("no_secret")
        body = body_of(pending.delivery, event_id(pending.delivery))
        headers = headers_of(delivery_id, now_ms // 1000, body, known, self._user_agent)
        if pending.delivery.traceparent is not None:
            headers[TRACEPARENT] = pending.delivery.traceparent
        return await self._sender.post(saved.url, headers, body)

    async def _report(self, delivery_id: str, verdict: AttemptVerdict) -> None:
        fact = verdict.fact
        messages: list[Message] = []
        if isinstance(fact, DeliveryDead):
            self._metrics.dead.labels(fact.dead_by).inc()
            log.warning(
                "delivery_dead", delivery_id=delivery_id, endpoint_id=fact.delivery.endpoint_id,
                tenant=fact.delivery.tenant, reason=fact.dead_by, attempt=fact.attempt, status=fact.status,
            )  # fmt: skip
            if fact.dead_by in TOLD_TO_OPERATORS and not fact.delivery.test:
                messages.append(dead_letter_of(fact))
        if verdict.gone:
            self._metrics.disabled.inc()
            messages.append(
                EndpointSwitched(
                    id=f"{fact.id}/switch", at_ms=fact.at_ms, endpoint_id=fact.delivery.endpoint_id,
                    tenant=fact.delivery.tenant, enabled=False, reason="it answered 410 Gone",
                )
            )  # fmt: skip
        # The delivery's own fact goes last: a crash before it repeats the others, and loses none.
        if messages:
            await publish(self._publisher, messages, "outgoing")
        await publish(self._publisher, [fact], "outgoing")
        failpoint("outgoing.reported")


def dead_letter_of(fact: DeliveryDead) -> DeadLetter:
    """The dead letter of an abandoned delivery. It holds no record to requeue: a resend sends the delivery again."""
    delivery = fact.delivery
    last = f"; last: {fact.failed_by}{'' if fact.status is None else f' {fact.status}'}" if fact.failed_by else ""
    return DeadLetter(
        id=f"{fact.id}/letter",
        at_ms=fact.at_ms,
        component="outgoing",
        reason="undeliverable",
        detail=f"{delivery.event_type} to endpoint {delivery.endpoint_id} of {delivery.tenant}: {fact.dead_by} after "
        f"{fact.attempt} attempts{last}. Again: backstop webhooks resend {delivery.endpoint_id} "
        f"--job {delivery.response_id}",
        record_key=fact.delivery_id,
    )
