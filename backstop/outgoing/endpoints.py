"""The endpoints that tenants have registered, from the compacted topic `webhook-endpoints`.

Several receivers write there and share no file, so each reader merges the facts itself: the last record of a key wins,
and a removed endpoint stays removed. `EndpointFollower.catch_up` returns when everything acknowledged before the call
is known: so a writer sees its own registration, and a result finds an endpoint registered just before it.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.lifetimes import started, stopped
from backstop.runtime.kafka.topic_reader import read_to
from backstop.runtime.process.logs import get_logger
from backstop.runtime.settings import RuntimeSettings
from schemas.codec import PoisonError, decode
from schemas.webhook_endpoints import (
    ENDPOINT_FACT,
    EndpointMessage,
    EndpointRemoved,
    EndpointSaved,
    EndpointSwitched,
    EventType,
)

log = get_logger("backstop.outgoing.endpoints")

TOPIC = "webhook-endpoints"
CATCH_UP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint. `saved` is None until its registration is read."""

    id: str
    saved: EndpointSaved | None = None
    enabled: bool = True
    disabled_because: str = ""
    removed: bool = False

    @property
    def is_there(self) -> bool:
        return self.saved is not None and not self.removed

    @property
    def live(self) -> bool:
        """Registered and enabled: it gets events."""
        return self.is_there and self.enabled


@dataclass(slots=True)
class EndpointBook:
    """All endpoints. Pure."""

    by_id: dict[str, Endpoint] = field(default_factory=dict)
    _of_tenant: dict[str, set[str]] = field(default_factory=dict)

    def take(self, fact: EndpointMessage) -> None:
        known = self.by_id.get(fact.endpoint_id, Endpoint(fact.endpoint_id))
        match fact:
            case EndpointSaved():
                known = replace(known, saved=fact)
            case EndpointSwitched():
                known = replace(known, enabled=fact.enabled, disabled_because="" if fact.enabled else fact.reason)
            case EndpointRemoved():
                known = replace(known, removed=True)
            case _:
                raise TypeError(type(fact).__name__)
        self.by_id[known.id] = known
        self._of_tenant.setdefault(fact.tenant, set()).add(known.id)

    def registered(self, tenant: str | None = None) -> list[Endpoint]:
        """Endpoints that are not removed, oldest first; of one tenant, or of all (None)."""
        ids: Iterable[str] = self.by_id if tenant is None else self._of_tenant.get(tenant, ())
        found = [one for one in map(self.by_id.__getitem__, ids) if one.is_there]
        return sorted(found, key=lambda one: (one.saved.created_at_ms if one.saved else 0, one.id))

    def find(self, endpoint_id: str, tenant: str) -> Endpoint | None:
        """None if it is not registered, or belongs to another tenant."""
        found = self.by_id.get(endpoint_id)
        return (
            found if found is not None and found.is_there and endpoint_id in self._of_tenant.get(tenant, ()) else None
        )

    def wanting(self, tenant: str, event_type: EventType, ended_at_ms: int) -> list[Endpoint]:
        """Live endpoints subscribed to this event type. One registered after `ended_at_ms` does not get the event."""
        return [
            one
            for one in map(self.by_id.__getitem__, sorted(self._of_tenant.get(tenant, ())))
            if one.live
            and one.saved is not None
            and event_type in one.saved.event_types
            and one.saved.created_at_ms <= ended_at_ms
        ]

    @property
    def any_live(self) -> bool:
        return any(one.live for one in self.by_id.values())


class Endpoints(Protocol):
    """The endpoints as the ingress and the sender use them."""

    book: EndpointBook

    async def catch_up(self) -> None:
        """Read everything that was acknowledged before this call.

        :raises BrokerUnavailableError: the broker does not answer.
        """


class EndpointFollower:
    """Reads the topic from its beginning, without a group. Connects
    at the first `catch_up`, so an unused one is free.
    """

    def __init__(self, settings: RuntimeSettings) -> None:
        self.book = EndpointBook()
        """The state at the last completed `catch_up`; a first or repeated reading is not visible before its end."""
        self._reading = self.book
        self._settings = settings
        self._partitions = [
            TopicPartition(f"{settings.topic_prefix}{TOPIC}", number) for number in range(settings.partitions)
        ]
        self._consumer: AIOKafkaConsumer | None = None
        self._turn = asyncio.Lock()
        self._rounds_begun = 0
        self._read_round = 0
        """The last round that was read to its end."""

    async def catch_up(self) -> None:
        # A caller that comes during a round shares the next round with all other waiting callers.
        wanted = self._rounds_begun + 1
        try:
            async with asyncio.timeout(CATCH_UP_TIMEOUT_S), self._turn:
                if self._read_round >= wanted:
                    return
                self._rounds_begun = this_round = self._rounds_begun + 1
                consumer = self._consumer or await self._connected()
                ends = await consumer.end_offsets(self._partitions)
                async for batches in read_to(consumer, ends):
                    self._take(batches)
                self.book, self._read_round = self._reading, this_round
        except TimeoutError as error:
            raise BrokerUnavailableError(f"webhook endpoints were not read within {CATCH_UP_TIMEOUT_S:g} s") from error
        except (KafkaError, OSError) as error:
            await self.stop()  # the next call reconnects
            raise BrokerUnavailableError(f"webhook endpoints can't be read: {error!r}") from error

    async def stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def _connected(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **client_options(self._settings),
            client_id="backstop-webhook-endpoints",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        try:
            await started(consumer)
            consumer.assign(self._partitions)
            await consumer.seek_to_beginning(*self._partitions)
        except BaseException:
            await stopped(consumer)
            raise
        self._consumer, self._reading = consumer, EndpointBook()
        return consumer

    def _take(self, batches: dict[TopicPartition, list[object]]) -> None:
        for records in batches.values():
            for record in records:
                try:
                    # aiokafka has no types.
                    self._reading.take(decode(ENDPOINT_FACT, record.value))  # type: ignore[attr-defined]
                except PoisonError as error:
                    # Only Backstop writes here: probably a fact of another release. The record stays in the topic.
                    log.error("endpoint_fact_unreadable", reason=error.reason, detail=error.detail)
