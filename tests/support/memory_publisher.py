"""A publisher with a log in memory, for tests without a broker. It behaves: it can be away, or slow to acknowledge."""

import asyncio
from collections.abc import Sequence

from backstop.runtime.errors import BrokerUnavailableError
from schemas.base import Message
from schemas.codec import encode


class MemoryPublisher:
    """Keeps what was sent, in order, as the bytes that would be on the topic.

    `away`: nothing lands, and each send fails. `hold()`: records land, but no acknowledgement comes until `release()`;
    whose patience ends before that hears what a producer says then, and the record has landed all the same.
    """

    def __init__(self) -> None:
        self.away = False
        self.landed: list[Message] = []
        self.acked: list[Message] = []
        self._acknowledging = asyncio.Event()
        self._acknowledging.set()

    def hold(self) -> None:
        self._acknowledging.clear()

    def release(self) -> None:
        self._acknowledging.set()

    def on(self, topic: str) -> list[Message]:
        """What stands on this topic."""
        return [message for message in self.landed if message.topic == topic]

    async def publish(self, messages: Sequence[Message], timeout_s: float | None = None) -> None:
        if self.away:
            raise BrokerUnavailableError("the broker is away")
        for message in messages:
            encode(message)  # what can't be written must fail here as it would there
        self.landed += messages
        try:
            async with asyncio.timeout(timeout_s):
                await self._acknowledging.wait()
        except TimeoutError:
            raise BrokerUnavailableError("not acknowledged in time") from None
        self.acked += messages
