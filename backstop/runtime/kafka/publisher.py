"""The idempotent producer: when a send returns, all in-sync replicas have acknowledged it."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner, murmur2

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.broker_clock import said
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.headers import event_headers
from backstop.runtime.kafka.lifetimes import started
from backstop.runtime.kafka.troubles import trouble_headers
from backstop.runtime.process.logs import get_logger
from backstop.runtime.process.probes import Probe
from backstop.runtime.record_sizes import RECORD_BYTES_MAX
from backstop.runtime.records import Record
from backstop.runtime.settings import RuntimeSettings
from schemas.base import Message
from schemas.codec import encode

log = get_logger("backstop.runtime.kafka.publisher")

SEND_TIMEOUT_MS = 30_000
KEYS_REMEMBERED_MAX: Final = 4_096
"""Keys whose hash is remembered: those of some hundred jobs in progress. A key has 1 KiB at most."""

_DEFAULT: Final = DefaultPartitioner()


Landed = Callable[[Record], None]
"""Takes an acknowledged record, with the full name of its topic; those of a partition in order."""


class Publisher(Protocol):
    async def publish(self, messages: Sequence[Message], timeout_s: float | None = None) -> None:
        """Send each message to its topic, in order per key; return when every one is acknowledged.

        :raises BrokerUnavailableError: a message was not acknowledged in time. It may still be appended: a repeat is
            harmless, as ids are derived. The caller must not confirm durability to its client.
        """


@lru_cache(KEYS_REMEMBERED_MAX)
def _hash(key: bytes) -> int:
    """The hash of a key. Python needs up to 8 us for it, and a key comes back some eight times within seconds."""
    return int(murmur2(key)) & 0x7FFFFFFF


def partition_of(key: bytes | None, partitions: Sequence[int], available: Sequence[int]) -> int:
    """The partition of a key, as Kafka's default partitioner chooses it."""
    return partitions[_hash(key) % len(partitions)] if key is not None else int(_DEFAULT(key, partitions, available))


class KafkaPublisher:
    """One producer per process; safe for concurrent use. `stop` flushes and closes it."""

    def __init__(
        self, settings: RuntimeSettings, source: str, blob_folder: str | None = None, trouble: Probe = lambda: None
    ) -> None:
        """Both are announced to other processes, on `clock`.

        :param blob_folder: the name of this process's blob folder (`backstop.runtime.blob_folders`).
        :param trouble: what this process complains of (`backstop.runtime.kafka.troubles`).
        """
        self._trouble = trouble
        self._blob_folder = blob_folder
        self._prefix = settings.topic_prefix
        self._source = source
        self._options: dict[str, Any] = client_options(settings)
        self._producer: AIOKafkaProducer | None = None
        self._renewing = asyncio.Lock()
        self._heard: dict[str, list[Landed]] = {}

    def tell(self, topic: str, landed: Landed) -> None:
        """Call `landed` with each record of `topic` that this producer has written, when it is acknowledged.

        Several may ask for a topic; they are called in the order in which they asked.
        """
        self._heard.setdefault(topic, []).append(landed)

    async def start(self) -> None:
        """:raises KafkaError: no broker answers; nothing is started, and the caller may try again."""
        self._producer = await self._started()

    async def _started(self) -> AIOKafkaProducer:
        # Created here, not in __init__: aiokafka binds to the running loop.
        producer = AIOKafkaProducer(
            **self._options,
            client_id=f"backstop-{self._source}",
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            partitioner=partition_of,
            max_request_size=RECORD_BYTES_MAX,
            request_timeout_ms=SEND_TIMEOUT_MS,
        )
        return await started(producer)

    async def stop(self) -> None:
        if self._producer is not None:
            await self._producer.stop()
            self._producer = None

    async def broker_time_ms(self) -> int:
        """See `backstop.runtime.kafka.broker_clock.TimeSource`: the
        timestamp that the broker gives to a record on `clock`.
        """
        producer = self._producer
        if producer is None:
            raise BrokerUnavailableError("the producer is not started")
        try:
            async with asyncio.timeout(SEND_TIMEOUT_MS / 1000):
                landed = await producer.send_and_wait(
                    f"{self._prefix}clock", value=said(self._source, self._blob_folder), partition=0,
                    headers=trouble_headers(self._source, self._trouble),
                )  # fmt: skip
        except (KafkaError, TimeoutError) as error:
            await self._renew_if_dead(producer)
            raise BrokerUnavailableError(f"not acknowledged by the broker: {error!r}") from error
        return int(landed.timestamp)

    async def publish(self, messages: Sequence[Message], timeout_s: float | None = None) -> None:
        producer = self._producer
        if producer is None:
            raise BrokerUnavailableError("the producer is not started")
        try:
            async with asyncio.timeout(timeout_s or SEND_TIMEOUT_MS / 1000):
                waits = [await self._send(producer, message) for message in messages]
                for wait in waits:
                    await wait
        except (KafkaError, TimeoutError) as error:
            await self._renew_if_dead(producer)
            raise BrokerUnavailableError(f"not acknowledged by the broker: {error!r}") from error

    async def erase(self, topic: str, keys: Sequence[str]) -> None:
        """Write a tombstone for each key of a compacted topic; return when every one is acknowledged.

        :raises BrokerUnavailableError: see `Publisher.publish`.
        """
        producer = self._producer
        if producer is None:
            raise BrokerUnavailableError("the producer is not started")
        try:
            async with asyncio.timeout(SEND_TIMEOUT_MS / 1000):
                waits = [await producer.send(f"{self._prefix}{topic}", value=None, key=key.encode()) for key in keys]
                for wait in waits:
                    await wait
        except (KafkaError, TimeoutError) as error:
            await self._renew_if_dead(producer)
            raise BrokerUnavailableError(f"not acknowledged by the broker: {error!r}") from error

    async def _send(self, producer: Any, message: Message) -> "asyncio.Future[Any]":
        """Give a message to the producer; returns its acknowledgement."""
        key, value, headers = message.key.encode(), encode(message), event_headers(message, self._source)
        wait: asyncio.Future[Any] = await producer.send(
            f"{self._prefix}{message.topic}", value=value, key=key, headers=headers
        )
        heard = self._heard.get(message.topic)
        if heard is not None:
            # Callbacks run in the order of the offsets.
            wait.add_done_callback(partial(_tell, heard, key, value, headers))
        return wait

    async def _renew_if_dead(self, producer: Any) -> None:
        """Replace a producer whose sender task has ended: aiokafka ends it for good at a
        suspected bug or a lost sequence. The caller's retry uses the new one.
        """
        async with self._renewing:
            current = self._producer
            if current is None or current is not producer or not _is_dead(current):
                return
            log.error("producer_died", source=self._source)
            try:
                fresh = await self._started()
            except (KafkaError, OSError):
                return  # no broker answers: the next failed send tries again
            self._producer = fresh
            with suppress(KafkaError, OSError):
                await current.stop()


def _tell(
    heard: Iterable[Landed], key: bytes, value: bytes, headers: list[tuple[str, bytes]], wait: "asyncio.Future[Any]"
) -> None:  # fmt: skip
    if wait.cancelled() or wait.exception() is not None:
        return
    at = wait.result()
    if at.offset >= 0:
        record = Record(at.topic, at.partition, at.offset, at.timestamp, key, value, tuple(headers))
        for landed in heard:
            landed(record)


def _is_dead(producer: Any) -> bool:
    task = producer._sender.sender_task  # noqa: SLF001 - no public attribute shows it
    return task is None or task.done()
