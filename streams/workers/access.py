"""The one account at the provider that all workers of a process share."""

from collections.abc import Callable
from dataclasses import dataclass, field

from backstop.runtime.blobs import Bodies
from schemas.base import Body
from streams.provider import Provider, Seen
from streams.workers.lanes import Lanes
from streams.workers.pauses import Pauses
from streams.workers.rate import PollRate

HedgeAt = Callable[[str, str, int], int | None]
"""(response id, model, now in ms) → when to ask for a hedge of a response that was just accepted; None: not known."""


def never_hedged(_response_id: str, _model: str, _now_ms: int) -> int | None:
    """No response is hedged."""
    return None


@dataclass(frozen=True, slots=True)
class ProviderAccess:
    """The calls of the provider, and what holds them back."""

    provider: Provider
    lanes: Lanes
    """Hold back creates."""
    rate: PollRate
    """Holds back polls, cancels and the opening of streams."""
    pauses: Pauses = field(default_factory=Pauses)
    """Hold back the creates that an operator paused."""
    hedge_at: HedgeAt = never_hedged


async def stored(bodies: Bodies, seen: Seen) -> Body:
    """The object that was seen, as a body.

    :raises OSError: not stored.
    :raises TypeError: nested deeper than the writer of JSON can go.
    """
    return await bodies.put(seen.body) if seen.whole is None else await bodies.put_large(seen.whole)
