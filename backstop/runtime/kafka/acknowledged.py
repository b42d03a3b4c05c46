"""Asking the broker again until it answers. For what must not be given up, and may be repeated."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.process.logs import get_logger
from schemas.base import Message

log = get_logger("backstop.runtime.kafka.acknowledged")

RETRY_WAIT_S = 0.2
RETRY_WAIT_S_MAX = 2.0
"""A wait doubles up to this: so much later than the broker itself we are back at most."""


async def publish(
    publisher: Publisher, messages: Sequence[Message], who: str, retried: Callable[[], None] = lambda: None
) -> None:
    """Return when all are acknowledged. Repeats are harmless, as ids are derived."""

    async def send() -> None:
        await publisher.publish(messages)

    await until_acknowledged(send, who, retried)


async def until_acknowledged(
    ask: Callable[[], Awaitable[None]], who: str, retried: Callable[[], None] = lambda: None
) -> None:
    """Repeat `ask` while the broker is away; `retried` is told of each repeat. Ended from outside only."""
    wait_s = RETRY_WAIT_S
    while True:
        try:
            return await ask()
        except BrokerUnavailableError as error:
            log.warning("broker_does_not_acknowledge", component=who, reason=str(error))
            retried()
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 2, RETRY_WAIT_S_MAX)
