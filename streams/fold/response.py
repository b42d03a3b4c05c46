"""The life of a response.

Rules, before the code:
- A webhook is a hint: it makes a look. Only an observation of a terminal status (or a 404 past the grace) settles the attempt,
  and it does so once.
- A response is *unclaimed* until the job fold says whose it is. Claims and webhooks come in any order. An unclaimed one is
  looked at when `claim_by_ms` is reached: its metadata names job and attempt and it is offered to that job (the job fold
  answers with a claim, or does not), or it is foreign, and forgotten.
- While running there is always a next look in the state; a lost command, webhook or observation is mended by it.
- A response that still runs after its job's deadline costs money for nobody: each look is then a cancel (which answers with the
  object, so it is a look too). One that the provider never ends is
  forgotten when its job is.
- After the end everything is late: it changes nothing. The row is forgotten after the window in which repeats are expected.
"""

from dataclasses import dataclass, replace
from typing import Literal, assert_never

from schemas.base import FoundBy, Message
from schemas.commands import CancelResponse, LookReason, RetrieveResponse
from schemas.jobs import AttemptAccepted, AttemptSettled, SettledStatus
from schemas.responses import (
    LAST_LOOK_LEAD_MS,
    LookFailed,
    ResponseClaimed,
    ResponseFact,
    ResponseObserved,
    ResponseTimerFired,
    WebhookReceived,
)
from streams.fold.step import Ignored, Step

UNCLAIMED_LOOKS_MAX = 5
"""Looks at a response that nobody claims. One is enough unless its observation is lost."""

WEBHOOKS_REMEMBERED_MAX = 16
"""Webhook ids kept for a response. OpenAI sends one event a response, repeats carry the same id; past this, a further id costs
nothing but one look."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose it is."""

    job_id: str
    attempt: int
    tenant: str
    claimed_at_ms: int
    last_look_at_ms: int
    missing_grace_ms: int
    forget_after_ms: int
    stream: bool = False
    """Its partial output can be followed while it runs. Decides nothing here."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """The webhooks that came: ids, so that a repeat is known, and when the first one did."""

    ids: tuple[str, ...] = ()
    first_at_ms: int | None = None
    ended_at_ms: int | None = None

    def add(self, event: WebhookReceived) -> "Hooks":
        first_at_ms = event.at_ms if self.first_at_ms is None else self.first_at_ms
        ended_at_ms = event.ended_at_ms if self.ended_at_ms is None else self.ended_at_ms
        return Hooks((*self.ids, event.webhook_id)[-WEBHOOKS_REMEMBERED_MAX:], first_at_ms, ended_at_ms)


@dataclass(frozen=True, slots=True)
class Absent:
    kind: Literal["absent"] = "absent"


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """Known by a webhook only. `look_at_ms` is None once a look saw whose it is: then it waits to be claimed or forgotten."""

    first_seen_ms: int
    hooks: Hooks
    look_at_ms: int | None
    forget_at_ms: int
    looks: int = 0
    kind: Literal["unclaimed"] = "unclaimed"


@dataclass(frozen=True, slots=True)
class Running:
    """Claimed, and not known to have ended; the next look is due at `look_at_ms`."""

    claim: Claim
    look_at_ms: int
    looks: int = 0
    hooks: Hooks = Hooks()
    kind: Literal["running"] = "running"


@dataclass(frozen=True, slots=True)
class Ended:
    """Settled; remembered until `forget_at_ms`."""

    claim: Claim
    status: SettledStatus
    forget_at_ms: int
    kind: Literal["ended"] = "ended"


ResponseState = Absent | Unclaimed | Running | Ended


def due_ms(state: ResponseState) -> int | None:
    """When the scheduler is to write the next `ResponseTimerFired`; None only where there is no row."""
    match state:
        case Absent():
            return None
        case Unclaimed():
            return state.forget_at_ms if state.look_at_ms is None else state.look_at_ms
        case Running():
            return state.look_at_ms
        case Ended():
            return state.forget_at_ms
        case _:
            assert_never(state)


def step(state: ResponseState, event: ResponseFact) -> Step[ResponseState]:
    """Fold one fact of a response. Total: what no longer matters is a no-op that says so."""
    match state:
        case Absent():
            return _begin(state, event)
        case Unclaimed():
            return _identify(state, event)
        case Running():
            return _advance(state, event)
        case Ended():
            return _remember(state, event)
        case _:
            assert_never(state)


def _begin(state: Absent, event: ResponseFact) -> Step[ResponseState]:
    match event:
        case WebhookReceived():
            forget_at_ms = event.at_ms + event.forget_after_ms
            hooks = Hooks().add(event)
            return Step(Unclaimed(event.at_ms, hooks, min(event.claim_by_ms, forget_at_ms), forget_at_ms))
        case ResponseClaimed():
            return _claim(event, Hooks())
        case ResponseObserved() | LookFailed() | ResponseTimerFired():
            return Step(state, ignored=Ignored.UNKNOWN_KEY)
        case _:
            assert_never(event)


def _claim(event: ResponseClaimed, hooks: Hooks) -> Step[ResponseState]:
    claim = Claim(
        job_id=event.job_id,
        attempt=event.attempt,
        tenant=event.tenant,
        claimed_at_ms=event.at_ms,
        last_look_at_ms=event.last_look_at_ms,
        missing_grace_ms=event.missing_grace_ms,
        forget_after_ms=event.forget_after_ms,
        stream=event.stream is True,
    )
    running = Running(claim, _bounded(claim, event.look_at_ms, event.at_ms), hooks=hooks)
    if hooks.ids:  # Its webhook came first: it has probably ended.
        return Step(replace(running, looks=1), (_look(running, event, "claim"),))
    return Step(running)


def _identify(state: Unclaimed, event: ResponseFact) -> Step[ResponseState]:
    match event:
        case WebhookReceived():
            if event.webhook_id in state.hooks.ids:
                return Step(state, ignored=Ignored.DUPLICATE)
            return Step(replace(state, hooks=state.hooks.add(event)))
        case ResponseClaimed():
            return _claim(event, state.hooks)
        case ResponseTimerFired():
            return _unclaimed_due(state, event)
        case LookFailed() | ResponseObserved(outcome="missing"):
            # A 404 does not say whose it is: right after a create it means "not yet". The next look is in the state already.
            return Step(state, ignored=Ignored.STALE)
        case ResponseObserved():
            return _offer(state, event)
        case _:
            assert_never(event)


def _unclaimed_due(state: Unclaimed, event: ResponseTimerFired) -> Step[ResponseState]:
    if event.due_ms != due_ms(state):
        return Step(state, ignored=Ignored.STALE)
    if event.due_ms >= state.forget_at_ms:
        return Step(Absent())
    look = RetrieveResponse(
        id=f"{event.id}/look",
        at_ms=event.at_ms,
        response_id=event.response_id,
        reason="adoption",
        accepted_at_ms=state.first_seen_ms,
    )
    again = state.looks + 1 < UNCLAIMED_LOOKS_MAX
    look_at_ms = min(max(event.next_look_at_ms, event.due_ms + 1), state.forget_at_ms) if again else None
    return Step(replace(state, look_at_ms=look_at_ms, looks=state.looks + 1), (look,))


def _offer(state: Unclaimed, event: ResponseObserved) -> Step[ResponseState]:
    """Its metadata names a job of ours: offer it. The job fold checks that the job exists, is that tenant's, and waits for it."""
    if event.job_id is None or event.attempt is None or event.tenant is None:
        if state.look_at_ms is None:
            return Step(state, ignored=Ignored.DUPLICATE)
        return Step(replace(state, look_at_ms=None))  # Foreign.
    offer = AttemptAccepted(
        id=f"{event.job_id}/{event.attempt}/accepted/{event.response_id}",
        at_ms=event.at_ms,
        job_id=event.job_id,
        attempt=event.attempt,
        tenant=event.tenant,
        response_id=event.response_id,
        status=event.raw_status or event.outcome,
        adopted=True,
        look_at_ms=event.next_look_at_ms,
    )
    return Step(replace(state, look_at_ms=None), (offer,))


def _advance(state: Running, event: ResponseFact) -> Step[ResponseState]:
    match event:
        case WebhookReceived():
            if event.webhook_id in state.hooks.ids:
                return Step(state, ignored=Ignored.DUPLICATE)
            hooked = replace(state, hooks=state.hooks.add(event))
            return Step(replace(hooked, looks=state.looks + 1), (_look(hooked, event, "webhook"),))
        case ResponseTimerFired():
            return _look_due(state, event)
        case ResponseObserved(outcome="running"):
            return _look_again(state, event)
        case ResponseObserved(outcome="missing"):
            if event.at_ms < state.claim.claimed_at_ms + state.claim.missing_grace_ms:
                return _look_again(state, event)
            return _settle(state, event, "missing")
        case ResponseObserved(outcome="completed" | "failed" | "incomplete" | "cancelled" as status):
            return _settle(state, event, status)
        case LookFailed():
            return _look_again(state, event)
        case ResponseClaimed():
            return Step(state, ignored=Ignored.DUPLICATE)
        case ResponseObserved():
            return Step(state, ignored=Ignored.IMPOSSIBLE)
        case _:
            assert_never(event)


def _look_due(state: Running, event: ResponseTimerFired) -> Step[ResponseState]:
    claim = state.claim
    if event.due_ms != state.look_at_ms:
        return Step(state, ignored=Ignored.STALE)
    if event.due_ms >= claim.last_look_at_ms + LAST_LOOK_LEAD_MS + claim.forget_after_ms:
        return Step(Absent())
    next_look_at_ms = _bounded(claim, max(event.next_look_at_ms, event.due_ms + 1), event.due_ms)
    looked = replace(state, look_at_ms=next_look_at_ms, looks=state.looks + 1)
    if event.due_ms < claim.last_look_at_ms + LAST_LOOK_LEAD_MS:
        return Step(looked, (_look(state, event, "timer"),))
    cancel = CancelResponse(
        id=f"{event.id}/cancel", at_ms=event.at_ms, response_id=event.response_id, job_id=claim.job_id
    )  # fmt: skip
    return Step(looked, (cancel,))


def _look_again(state: Running, event: ResponseObserved | LookFailed) -> Step[ResponseState]:
    """Take the time that the caller stamped, if it is sooner: an old observation must not put a look off."""
    next_look_at_ms = _bounded(state.claim, event.next_look_at_ms, event.at_ms)
    if next_look_at_ms >= state.look_at_ms:
        return Step(state, ignored=Ignored.STALE)
    return Step(replace(state, look_at_ms=next_look_at_ms))


def _settle(state: Running, event: ResponseObserved, status: SettledStatus) -> Step[ResponseState]:
    found_by: FoundBy = "webhook" if state.hooks.ids else "look"
    settled = AttemptSettled(
        id=f"{event.response_id}/settled",
        at_ms=event.at_ms,
        job_id=state.claim.job_id,
        attempt=state.claim.attempt,
        response_id=event.response_id,
        status=status,
        blame="soon" if status == "missing" else event.blame,
        code="response_missing" if status == "missing" else event.code,
        message=event.message,
        response=event.response,
        usage=event.usage,
        found_by=found_by,
        looks=state.looks,
        webhook_at_ms=state.hooks.first_at_ms,
        provider_created_at_ms=event.provider_created_at_ms,
        provider_ended_at_ms=event.provider_ended_at_ms or state.hooks.ended_at_ms,
    )
    return Step(Ended(state.claim, status, event.at_ms + state.claim.forget_after_ms), (settled,))


def _remember(state: Ended, event: ResponseFact) -> Step[ResponseState]:
    if isinstance(event, ResponseTimerFired):
        if event.due_ms != state.forget_at_ms:
            return Step(state, ignored=Ignored.STALE)
        return Step(Absent())
    return Step(state, ignored=Ignored.LATE)


def _look(state: Running, event: Message, reason: LookReason) -> RetrieveResponse:
    assert isinstance(event, WebhookReceived | ResponseClaimed | ResponseTimerFired)
    return RetrieveResponse(
        id=f"{event.id}/look",
        at_ms=event.at_ms,
        response_id=event.response_id,
        reason=reason,
        job_id=state.claim.job_id,
        accepted_at_ms=state.claim.claimed_at_ms,
        looks=state.looks,
    )


def _bounded(claim: Claim, look_at_ms: int, now_ms: int) -> int:
    """No look is put off past the last one before the deadline, unless that is over."""
    if look_at_ms > claim.last_look_at_ms > now_ms:
        return claim.last_look_at_ms
    return look_at_ms
