"""A health probe of the receiver: whether the broker acknowledges its records."""

from collections.abc import Callable, Sequence

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.publisher import Publisher
from schemas.base import Message

REMEMBER_FAILURE_S = 10.0
"""After this time the receiver counts as ready again: without traffic it could not see that the broker is back."""


class WatchedPublisher:
    """A publisher that remembers whether its last send failed."""

    def __init__(self, publisher: Publisher, monotonic_s: Callable[[], float]) -> None:
        self._publisher = publisher
        self._monotonic_s = monotonic_s
        self._failed_at_s: float | None = None

    async def publish(self, messages: Sequence[Message], timeout_s: float | None = None) -> None:
        try:
            await self._publisher.publish(messages, timeout_s)
        except BrokerUnavailableError:
            self._failed_at_s = self._monotonic_s()
            raise
        self._failed_at_s = None

    def complaint(self) -> str | None:
        """Why the process is not ready, or None."""
        if self._failed_at_s is None:
            return None
        age_s = self._monotonic_s() - self._failed_at_s
        return None if age_s > REMEMBER_FAILURE_S else f"the broker did not acknowledge a record {age_s:.0f} s ago"
