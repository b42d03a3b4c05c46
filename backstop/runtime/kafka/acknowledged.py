"""Repeats a broker request until it is acknowledged, for requests that must succeed and may be repeated."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.process.logs import get_logger
from schemas.base import Message

log = get_logger("backstop.runtime.kafka.acknowledged")

RETRY_WAIT_S = 0.2
RETRY_WAIT_S_MAX = 2.0
"""Each wait doubles, up to this: the longest delay between the broker's return and the next request."""


async def publish(
    publisher: Publisher, messages: Sequence[Message], who: str, retried: Callable[[], None] = lambda: None
) -> None:
    """Return when all messages are acknowledged. Repeats are harmless, because ids are derived."""

    async def send() -> None:
        await publisher.publish(messages)

    await until_acknowledged(send, who, retried)


async def until_acknowledged(
    ask: Callable[[], Awaitable[None]], who: str, retried: Callable[[], None] = lambda: None
) -> None:
    """Repeat `ask` while the broker is unavailable; call `retried`
    before each repeat. Only cancellation ends the loop.
    """
    wait_s = RETRY_WAIT_S
    while True:
        try:
            return await ask()
        except BrokerUnavailableError as error:
            log.warning("broker_does_not_acknowledge", component=who, reason=str(error))
            retried()
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 2, RETRY_WAIT_S_MAX)
