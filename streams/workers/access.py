"""The one account at the provider that all workers of a process share."""

from dataclasses import dataclass

from streams.provider import Provider
from streams.workers.lanes import Lanes
from streams.workers.rate import PollRate


@dataclass(frozen=True, slots=True)
class ProviderAccess:
    """The calls of the provider, and what holds them back."""

    provider: Provider
    lanes: Lanes
    """Hold back creates."""
    rate: PollRate
    """Holds back polls, cancels and the opening of streams."""
