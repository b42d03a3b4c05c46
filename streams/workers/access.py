"""The one account at the provider that all workers of a process share."""

from collections.abc import Callable
from dataclasses import dataclass

from streams.provider import Provider
from streams.workers.lanes import Lanes
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
    hedge_at: HedgeAt = never_hedged
