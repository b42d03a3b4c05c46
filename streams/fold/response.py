"""The state machine of a response.

Rules, before the code:
- A webhook is a hint: it causes a poll. Only an observation of a terminal status settles the attempt, once.
- A response is *unclaimed* until the job fold claims it. Claims and webhooks may come in any order. An unclaimed
  response is polled at `claim_by_ms`. If its metadata names a job and an attempt, it is offered to that job, and the
  job fold may answer with a claim. Otherwise it is foreign, and forgotten later.
- The state of a running response always has a next poll. This poll makes up for a lost command, webhook or observation.
- One negative answer is no end. A 404 counts as *missing* only after 404s without a break for `missing_patience_ms`. A
  response whose polls are refused otherwise counts as missing after `response_patience.REFUSED_MS` without an
  observation, if others ended meanwhile. One with an unknown status is settled as incomplete after `ODD_PATIENCE_MS`. A
  response without any change for too long is *stuck*. The job fold is told of missing and of stuck, once. The response
  is still polled, and its end settles the attempt after all.
- No job waits for a *released* response (its job is over, or gave it up), and it costs money. It is cancelled at once,
  and each of its timers cancels again, at growing intervals. The answer to a cancel contains the object, so a cancel is
  a poll, too. A response that never ends is forgotten with its job.
- A response *made elsewhere* is claimed because a client named its id. The id proves no ownership, and the claim of a
  create has precedence. So the response is polled at once. If its metadata name another job, it is offered to that job
  and the adoption is refused, before any of its content is passed on. It is never cancelled before a poll has shown its
  owner. The claim of a create takes it over at any time.
- Facts after the end are late and change nothing. The row is forgotten after the time in which repeats are expected.
"""

from dataclasses import replace
from typing import assert_never

from schemas.commands import RetrieveResponse
from schemas.responses import (
    PollFailed,
    ResponseClaimed,
    ResponseDeadlineMoved,
    ResponseFact,
    ResponseObserved,
    ResponseReleased,
    ResponseTimerFired,
    WebhookReceived,
)
from schemas.statuses import SettledStatus
from streams.fold.response_commands import bounded, cancel_of, poll_of
from streams.fold.response_hedges import asks, confirmed, hedge_of, stamped
from streams.fold.response_patience import refused_for_good, stuck
from streams.fold.response_states import (
    AbsentResponse,
    Ended,
    ReceivedWebhooks,
    ResponseClaim,
    ResponseState,
    RunningResponse,
    SeenSoFar,
    Unclaimed,
    due_ms,
)
from streams.fold.step import Ignored, Step
from streams.fold.told import adoption_refused, offered, told

__all__ = [
    "AbsentResponse",
    "Ended",
    "ReceivedWebhooks",
    "ResponseClaim",
    "ResponseState",
    "RunningResponse",
    "SeenSoFar",
    "Unclaimed",
    "due_ms",
    "step",
]

UNCLAIMED_POLLS_MAX = 5
"""Polls of an unclaimed response. One is enough unless its observation is lost."""

ODD_PATIENCE_MS = 600_000
"""How long a response may keep the same unknown status before it is settled as incomplete."""

CANCEL_AGAIN_MS = 30_000
"""From the first cancel of a released response to the second one, if the response has not ended by then."""


def step(state: ResponseState, event: ResponseFact) -> Step[ResponseState]:
    """Fold one fact of a response. Total: a fact without effect returns the state and a reason (`Step.ignored`)."""
    match state:
        case AbsentResponse():
            return _begin(state, event)
        case Unclaimed():
            return _identify(state, event)
        case RunningResponse():
            return _advance(state, event)
        case Ended():
            return _remember(state, event)
        case _:
            assert_never(state)


def _begin(state: AbsentResponse, event: ResponseFact) -> Step[ResponseState]:
    match event:
        case WebhookReceived():
            forget_at_ms = event.at_ms + event.forget_after_ms
            webhooks = ReceivedWebhooks().add(event)
            return Step(Unclaimed(event.at_ms, webhooks, min(event.claim_by_ms, forget_at_ms), forget_at_ms))
        case ResponseClaimed():
            return _claim(event, ReceivedWebhooks())
        case ResponseReleased() | ResponseDeadlineMoved() | ResponseObserved() | PollFailed() | ResponseTimerFired():
            return Step(state, ignored=Ignored.UNKNOWN_KEY)
        case _:
            assert_never(event)


def _claim(event: ResponseClaimed, webhooks: ReceivedWebhooks) -> Step[ResponseState]:
    claim = ResponseClaim(
        job_id=event.job_id,
        attempt=event.attempt,
        tenant=event.tenant,
        claimed_at_ms=event.at_ms,
        last_poll_at_ms=event.last_poll_at_ms,
        missing_grace_ms=event.missing_grace_ms,
        forget_after_ms=event.forget_after_ms,
        stream=event.stream is True,
        missing_patience_ms=event.missing_patience_ms,
        stuck_after_ms=event.stuck_after_ms,
        stuck_factor=event.stuck_factor,
        include=event.include or (),
        made_elsewhere=event.made_elsewhere is True,
        latency_class=event.latency_class or (),
        control=event.control is True,
    )
    poll_at_ms = bounded(claim, event.poll_at_ms, event.at_ms)
    running = RunningResponse(claim, poll_at_ms, webhooks=webhooks, hedge=hedge_of(event))
    if event.released:
        return _let_go(running, event)
    if webhooks.ids or claim.made_elsewhere:
        # The webhook came before the claim, or the response is older than the claim: it may have ended.
        return Step(replace(running, polls=1), (poll_of(running, event, "claim"),))
    return Step(running)


def _identify(state: Unclaimed, event: ResponseFact) -> Step[ResponseState]:
    match event:
        case WebhookReceived():
            if event.webhook_id in state.webhooks.ids:
                return Step(state, ignored=Ignored.DUPLICATE)
            return Step(replace(state, webhooks=state.webhooks.add(event)))
        case ResponseClaimed():
            return _claim(event, state.webhooks)
        case ResponseTimerFired():
            return _unclaimed_due(state, event)
        case PollFailed() | ResponseReleased() | ResponseDeadlineMoved() | ResponseObserved(outcome="missing"):
            # None of these names an owner; a 404 right after a create means "not yet". The state already has a next
            # poll.
            return Step(state, ignored=Ignored.STALE)
        case ResponseObserved():
            return _offer(state, event)
        case _:
            assert_never(event)


def _unclaimed_due(state: Unclaimed, event: ResponseTimerFired) -> Step[ResponseState]:
    if event.due_ms != due_ms(state):
        return Step(state, ignored=Ignored.STALE)
    if event.due_ms >= state.forget_at_ms:
        return Step(AbsentResponse())
    poll = RetrieveResponse(
        id=f"{event.id}/poll",
        at_ms=event.at_ms,
        response_id=event.response_id,
        reason="adoption",
        accepted_at_ms=state.first_seen_ms,
    )
    again = state.polls + 1 < UNCLAIMED_POLLS_MAX
    poll_at_ms = min(max(event.next_poll_at_ms, event.due_ms + 1), state.forget_at_ms) if again else None
    return Step(replace(state, poll_at_ms=poll_at_ms, polls=state.polls + 1), (poll,))


def _offer(state: Unclaimed, event: ResponseObserved) -> Step[ResponseState]:
    """Offer the response to the job that its metadata names. The job fold checks tenant and attempt. Without an owner
    in the metadata the response is foreign.
    """
    if event.job_id is None or event.attempt is None or event.tenant is None:
        if state.poll_at_ms is None:
            return Step(state, ignored=Ignored.DUPLICATE)
        return Step(replace(state, poll_at_ms=None))  # Foreign.
    return Step(replace(state, poll_at_ms=None), (offered(event, event.job_id, event.attempt, event.tenant),))


def _advance(state: RunningResponse, event: ResponseFact) -> Step[ResponseState]:
    match event:
        case WebhookReceived():
            if event.webhook_id in state.webhooks.ids:
                return Step(state, ignored=Ignored.DUPLICATE)
            with_webhook = replace(state, webhooks=state.webhooks.add(event))
            return Step(replace(with_webhook, polls=state.polls + 1), (poll_of(with_webhook, event, "webhook"),))
        case ResponseTimerFired():
            return _poll_due(state, event)
        case ResponseReleased():
            if event.job_id != state.claim.job_id:
                return Step(state, ignored=Ignored.CONFLICT)
            if state.released_at_ms is not None:
                return Step(state, ignored=Ignored.DUPLICATE)
            return _let_go(state, event)
        case ResponseDeadlineMoved():
            return _moved(state, event)
        case ResponseObserved():
            return _observed(state, event)
        case PollFailed():
            return _poll_again(state, state, event)
        case ResponseClaimed():
            return _claimed_again(state, event, state.webhooks, Ignored.DUPLICATE)
        case _:
            assert_never(event)


def _claimed_again(
    state: RunningResponse | Ended, event: ResponseClaimed, webhooks: ReceivedWebhooks, known: Ignored
) -> Step[ResponseState]:
    """Two jobs claim one response: the claim of a create wins over an adoption; otherwise the first claim stands."""
    held = state.claim
    if held.job_id == event.job_id:
        return Step(state, ignored=known)
    if held.made_elsewhere and not event.made_elsewhere:
        taken = _claim(event, webhooks)
        refused = adoption_refused(event, held.job_id, held.tenant, event.job_id, event.tenant)
        return replace(taken, outputs=(*taken.outputs, refused))
    return Step(state, (adoption_refused(event, event.job_id, event.tenant, held.job_id, held.tenant),))


def _given_back(
    state: RunningResponse, event: ResponseObserved, job_id: str, attempt: int, tenant: str
) -> Step[ResponseState]:
    """The metadata of an adopted response name another job. The adopting job gets none of its content."""
    claim = state.claim
    unclaimed = Unclaimed(claim.claimed_at_ms, state.webhooks, None, event.at_ms + claim.forget_after_ms, state.polls)
    refused = adoption_refused(event, claim.job_id, claim.tenant, job_id, tenant)
    return Step(unclaimed, (offered(event, job_id, attempt, tenant), refused))


def _observed(state: RunningResponse, event: ResponseObserved) -> Step[ResponseState]:
    if state.claim.made_elsewhere and event.job_id not in (None, state.claim.job_id):
        assert event.job_id is not None and event.attempt is not None and event.tenant is not None  # noqa: PT018
        return _given_back(state, event, event.job_id, event.attempt, event.tenant)
    match event.outcome:
        case "running":
            return _runs(state, event)
        case "missing":
            return _missing(state, event)
        case "odd":
            return _odd(state, event)
        case _:
            return _settle(state, event, event.outcome)


def _poll_due(state: RunningResponse, event: ResponseTimerFired) -> Step[ResponseState]:
    claim = state.claim
    if event.due_ms != state.poll_at_ms:
        return _hedge_due(state, event) if asks(state, event) else Step(state, ignored=Ignored.STALE)
    if event.due_ms >= state.over_at_ms + claim.forget_after_ms:
        return Step(AbsentResponse())
    next_poll_at_ms = bounded(claim, max(event.next_poll_at_ms, event.due_ms + 1), event.due_ms)
    polled = replace(state, poll_at_ms=next_poll_at_ms, polls=state.polls + 1, hedge=stamped(state, event))
    if event.due_ms < state.over_at_ms or _may_be_anothers(state):
        return Step(polled, (poll_of(state, event, "timer"),))
    return Step(polled, (cancel_of(state, event, f"{event.id}/cancel"),))


def _hedge_due(state: RunningResponse, event: ResponseTimerFired) -> Step[ResponseState]:
    """A hedge is permitted if a poll shows that the response still runs; or it is asked for again, later."""
    hedge = stamped(state, event)
    if hedge is None or hedge.permit is None:
        return Step(replace(state, hedge=hedge))
    return Step(replace(state, polls=state.polls + 1, hedge=hedge), (poll_of(state, event, "timer"),))


def _let_go(state: RunningResponse, event: ResponseReleased | ResponseClaimed) -> Step[ResponseState]:
    """Release the response: cancel it now. Its next timer, within `CANCEL_AGAIN_MS`, repeats the cancel."""
    poll_at_ms = min(state.poll_at_ms, event.at_ms + CANCEL_AGAIN_MS)
    released = replace(state, released_at_ms=event.at_ms, poll_at_ms=poll_at_ms, hedge=None)
    if _may_be_anothers(state):
        return Step(released)  # The poll from its claim shows the owner first; the timer cancels later.
    return Step(released, (cancel_of(released, event, f"{event.response_id}/cancel"),))


def _moved(state: RunningResponse, event: ResponseDeadlineMoved) -> Step[ResponseState]:
    """The job waits until another deadline. If that is near, the response is polled at once."""
    if event.job_id != state.claim.job_id:
        return Step(state, ignored=Ignored.CONFLICT)
    if event.change <= state.claim.change or state.released_at_ms is not None:
        return Step(state, ignored=Ignored.STALE)
    claim = replace(state.claim, last_poll_at_ms=event.last_poll_at_ms, change=event.change)
    return Step(replace(state, claim=claim, poll_at_ms=min(state.poll_at_ms, max(event.last_poll_at_ms, event.at_ms))))


def _may_be_anothers(state: RunningResponse) -> bool:
    """Whether the response was adopted and no poll has shown its metadata yet."""
    return state.claim.made_elsewhere and state.sight.status is None


def _runs(state: RunningResponse, event: ResponseObserved) -> Step[ResponseState]:
    sight = _seen(state, event)
    after = replace(state, sight=sight)
    if sight.told == "stuck" or state.released_at_ms is not None or not stuck(after, event):
        after, permitted = confirmed(after, event) if sight.told is None else (after, ())
        return replace(_poll_again(state, after, event), outputs=permitted)
    given_up = replace(after, sight=replace(sight, told="stuck"))
    again = _poll_again(state, given_up, event)
    return replace(again, outputs=(told(given_up, event, "stuck"),))


def _seen(state: RunningResponse, event: ResponseObserved) -> SeenSoFar:
    """Note what is shown, and since when it has not changed. The first observed status counts from the claim."""
    sight, shown = state.sight, event.progress or 0
    since_ms: int | None = event.at_ms
    if sight.status is None:
        since_ms = state.claim.claimed_at_ms
    elif sight.status == event.raw_status and shown <= (sight.progress or 0):  # A replica may be behind.
        since_ms = sight.since_ms
    return replace(
        sight,
        status=event.raw_status,
        progress=max(shown, sight.progress or 0) or None,
        since_ms=since_ms,
        missing_since_ms=None,
        refused_since_ms=None,
    )


def _missing(state: RunningResponse, event: ResponseObserved) -> Step[ResponseState]:
    """A 404: the response is not there yet, not at this replica, or no longer there. With a code: a refused poll."""
    sight, refused = state.sight, event.code is not None
    if event.at_ms < state.claim.claimed_at_ms + state.claim.missing_grace_ms:
        return _poll_again(state, state, event)
    if state.released_at_ms is not None and sight.told is None and not refused:
        return _settle(state, event, "missing")  # Released, so no job waits: one 404 is enough.
    since_ms = sight.refused_since_ms if refused else sight.missing_since_ms
    since_ms = event.at_ms if since_ms is None else since_ms
    if refused:
        over = refused_for_good(event, since_ms) and state.released_at_ms is None
    else:
        over = event.at_ms - since_ms >= state.claim.missing_patience_ms
    after = replace(
        state,
        sight=replace(sight, refused_since_ms=since_ms) if refused else replace(sight, missing_since_ms=since_ms),
    )
    if not over or sight.told == "missing":
        return _poll_again(state, after, event)
    missing = replace(after, sight=replace(after.sight, told="missing"))
    again = _poll_again(state, missing, event)
    return replace(again, outputs=(told(missing, event, "missing"),))


def _odd(state: RunningResponse, event: ResponseObserved) -> Step[ResponseState]:
    """An unknown status: polled on, and settled as incomplete after `ODD_PATIENCE_MS`."""
    sight = _seen(state, event)
    if sight.status != state.sight.status:  # The patience begins with the first observation of the status.
        sight = replace(sight, since_ms=event.at_ms)
    if sight.since_ms is not None and event.at_ms - sight.since_ms >= ODD_PATIENCE_MS:
        return _settle(state, event, "incomplete")
    return _poll_again(state, replace(state, sight=sight), event)


def _poll_again(
    before: RunningResponse, after: RunningResponse, event: ResponseObserved | PollFailed
) -> Step[ResponseState]:
    """Move the next poll to the time that the poller stamped, if that is sooner: an old observation must not delay a
    poll.

    A released or missing response is not polled sooner because of an answer; only a failed poll moves its next poll.
    """
    given_up = after.released_at_ms is not None or after.sight.told == "missing"
    if isinstance(event, PollFailed) or not given_up:
        next_poll_at_ms = min(bounded(after.claim, event.next_poll_at_ms, event.at_ms), after.poll_at_ms)
        after = replace(after, poll_at_ms=next_poll_at_ms)
    if after == before:
        return Step(before, ignored=Ignored.STALE)
    return Step(after)


def _settle(state: RunningResponse, event: ResponseObserved, status: SettledStatus) -> Step[ResponseState]:
    return Step(Ended(state.claim, status, event.at_ms + state.claim.forget_after_ms), (told(state, event, status),))


def _remember(state: Ended, event: ResponseFact) -> Step[ResponseState]:
    if isinstance(event, ResponseTimerFired):
        if event.due_ms != state.forget_at_ms:
            return Step(state, ignored=Ignored.STALE)
        return Step(AbsentResponse())
    if isinstance(event, ResponseClaimed):
        return _claimed_again(state, event, ReceivedWebhooks(), Ignored.LATE)
    return Step(state, ignored=Ignored.LATE)
