"""Which responses ask for a hedge. Pure. The scheduler asks for them."""

from schemas.responses import LAST_POLL_LEAD_MS
from streams.fold.response_states import RunningResponse
from streams.policy.hedge_permits import Slow


def slow_response(response_id: str, state: RunningResponse, now_ms: int) -> Slow | None:
    """The response as one that asks; None where it may not: a permission is being answered, or its job does not need
    it any more.
    """
    hedge, claim = state.hedge, state.claim
    deadline_at_ms = claim.last_poll_at_ms + LAST_POLL_LEAD_MS
    if hedge is None or hedge.permit is not None or state.sight.told is not None:
        return None
    if state.released_at_ms is not None or now_ms >= deadline_at_ms:
        return None
    return Slow(response_id, hedge.model, claim.tenant, claim.claimed_at_ms, deadline_at_ms)
