"""Publishes records as they are: bytes that were set aside, and decisions about them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaProducer

from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.lifetimes import broker_errors, running
from backstop.runtime.record_sizes import RECORD_BYTES_MAX
from backstop.runtime.settings import RuntimeSettings

SEND_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class RawOutput:
    """A record to publish. `topic` is the full name."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


async def send_raw(settings: RuntimeSettings, records: Sequence[RawOutput], client_id: str) -> None:
    """Publish all of them, in this order, and wait for their acknowledgement.

    :raises BrokerUnavailableError: some records are not acknowledged; they may be sent again.
    """
    producer = AIOKafkaProducer(
        **client_options(settings), client_id=client_id, enable_idempotence=True, acks="all",
        max_request_size=RECORD_BYTES_MAX,
    )  # fmt: skip
    with broker_errors("not acknowledged; it is safe to do it again"):
        async with running(producer), asyncio.timeout(SEND_TIMEOUT_S):
            waits = [
                await producer.send(each.topic, value=each.value, key=each.key, headers=list(each.headers))
                for each in records
            ]
            for wait in waits:
                await wait
