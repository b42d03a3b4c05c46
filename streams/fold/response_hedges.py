"""A response whose job may have a hedge: the permission is asked for by a timer, and passed on by a poll. Pure.

Rules, before the code (docs/hedging.md):
- The scheduler stamps on a timer when to ask for the permission, or the permission itself. A permission makes a poll.
- Only an observation of the response as queued or running, after the permission, tells the job. A permission that no
  observation confirms within `PERMIT_VALID_MS` lapses, and may be asked for again.
- A response that is released, missing, stuck or past the job's deadline is not hedged.
"""

from dataclasses import replace

from schemas.jobs import HedgePermitted
from schemas.responses import ResponseClaimed, ResponseObserved, ResponseTimerFired
from streams.fold.response_states import Hedge, RunningResponse

PERMIT_VALID_MS = 60_000
"""From a permission to the observation that confirms it. A poll is answered or given up long before."""


def hedge_of(event: ResponseClaimed) -> Hedge | None:
    return None if event.hedge is None else Hedge(event.hedge.model, event.hedge.at_ms)


def asks(state: RunningResponse, event: ResponseTimerFired) -> bool:
    """Whether the timer is the one that asks for the permission."""
    return state.hedge is not None and state.hedge.ask_at_ms == event.due_ms


def stamped(state: RunningResponse, event: ResponseTimerFired) -> Hedge | None:
    """The hedge after a timer. A timer without a stamp, such as an older release writes, asks for nothing more."""
    hedge = state.hedge
    if hedge is None or event.due_ms >= state.over_at_ms:
        return None
    if event.permit is not None:
        return replace(hedge, ask_at_ms=None, permit=event.permit, permitted_at_ms=event.at_ms)
    ask_at_ms = event.hedge_at_ms
    return replace(hedge, ask_at_ms=None if ask_at_ms is None else max(ask_at_ms, event.due_ms + 1))


def confirmed(state: RunningResponse, event: ResponseObserved) -> tuple[RunningResponse, tuple[HedgePermitted, ...]]:
    """Pass on a permission: `event` shows that the response runs."""
    hedge = state.hedge
    if hedge is None or hedge.permit is None or event.at_ms < hedge.permitted_at_ms:
        return state, ()
    if event.at_ms - hedge.permitted_at_ms > PERMIT_VALID_MS:
        return replace(state, hedge=replace(hedge, permit=None, permitted_at_ms=0)), ()
    permitted = HedgePermitted(
        id=f"{event.response_id}/hedge/{hedge.permitted_at_ms}",
        at_ms=event.at_ms,
        job_id=state.claim.job_id,
        attempt=state.claim.attempt,
        response_id=event.response_id,
        permit=hedge.permit,
    )
    return replace(state, hedge=None), (permitted,)
