"""Asking the broker again until it answers. For what must not be given up, and may be repeated."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from runtime.errors import BrokerUnavailableError
from runtime.logs import get_logger
from runtime.publisher import Publisher
from schemas.base import Message

log = get_logger("outgoing.acknowledged")

RETRY_WAIT_S = 0.5


async def publish(publisher: Publisher, messages: Sequence[Message]) -> None:
    """Return when all are acknowledged; while the broker is away this waits. Repeats are harmless, as ids are derived."""

    async def send() -> None:
        await publisher.publish(messages)

    await until_done(send, "publish")


async def until_done(ask: Callable[[], Awaitable[None]], what: str) -> None:
    while True:
        try:
            return await ask()
        except BrokerUnavailableError as error:
            log.warning("broker_does_not_answer", what=what, reason=str(error))
            await asyncio.sleep(RETRY_WAIT_S)
