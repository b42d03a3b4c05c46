"""How long a running response may show no change, or refuse its polls, before it is given up. Pure."""

from schemas.responses import ResponseObserved
from streams.fold.response_states import RunningResponse

ALONE_FACTOR = 3
"""If no other response ended meanwhile, the provider may just be slow. Then the patience is multiplied by this."""

REFUSED_MS = 600_000
"""Of refused polls, other than by 404."""


def stuck(state: RunningResponse, event: ResponseObserved) -> bool:
    claim, since_ms = state.claim, state.sight.since_ms
    patience_ms = claim.stuck_after_ms
    if claim.stuck_factor is not None and event.typical_ms is not None:
        learned_ms = round(claim.stuck_factor * event.typical_ms)
        patience_ms = learned_ms if patience_ms is None else max(patience_ms, learned_ms)
    if patience_ms is None or since_ms is None:
        return False
    return event.at_ms - since_ms >= patience_ms * _factor(event, since_ms)


def refused_patience_ms(event: ResponseObserved, since_ms: int) -> int:
    return REFUSED_MS * _factor(event, since_ms)


def _factor(event: ResponseObserved, since_ms: int) -> int:
    others = event.others_ended_at_ms is not None and event.others_ended_at_ms > since_ms
    return 1 if others else ALONE_FACTOR
