"""How long a running response may show no change, or refuse its polls, before it is given up. Pure."""

from schemas.responses import ResponseObserved
from streams.fold.response_states import RunningResponse

ALONE_FACTOR = 3
"""If no other response ended meanwhile, the provider may just be slow. Then the patience is multiplied by this."""

REFUSED_MS = 600_000
"""Of refused polls, other than by 404, while other responses end."""


def stuck(state: RunningResponse, event: ResponseObserved) -> bool:
    claim, since_ms = state.claim, state.sight.since_ms
    patience_ms = claim.stuck_after_ms
    if claim.stuck_factor is not None and event.typical_ms is not None:
        learned_ms = round(claim.stuck_factor * event.typical_ms)
        patience_ms = learned_ms if patience_ms is None else max(patience_ms, learned_ms)
    if patience_ms is None or since_ms is None:
        return False
    return event.at_ms - since_ms >= patience_ms * (1 if _others_ended(event, since_ms) else ALONE_FACTOR)


def refused_for_good(event: ResponseObserved, since_ms: int) -> bool:
    """Whether its polls are refused, and not all polls: others ended meanwhile. Otherwise only the deadline ends it."""
    return event.at_ms - since_ms >= REFUSED_MS and _others_ended(event, since_ms)


def _others_ended(event: ResponseObserved, since_ms: int) -> bool:
    return event.others_ended_at_ms is not None and event.others_ended_at_ms > since_ms
