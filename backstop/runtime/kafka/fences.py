"""Writers of a partition, of which the broker takes only the newest; none of their batches needs a transaction.

A *fence id* is a transactional id. `FencedWriters.open` asks its coordinator for the next epoch, and then ends a
transaction that names the partition and holds no record. The coordinator writes the transaction's marker, with the new
epoch, on the partition. From then on the partition's leader refuses batches of older epochs, also those that were on
their way. A marker is no record: no consumer sees one. A former owner's open transaction is aborted before.

The writer's batches are idempotent ones of that producer id and epoch: a repeat of a batch is recognised.

What the coordinator and the leader remember is limited (`transactional.id.expiration.ms`, 7 days;
`producer.id.expiration.ms`, 1 day), so a writer sends nothing later than `FENCE_S_MAX` after its opening began. See
docs/decisions/0077.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import (
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    LeaderNotAvailableError,
    NoError,
    ProducerFenced,
    for_code,
)  # fmt: skip
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest
from aiokafka.protocol.types import CompactString, Int16, Int32, Int64, Schema, TaggedFields
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from backstop.runtime.errors import BackstopError
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.shared_client import RETRY_WAIT_S, SharedClient
from backstop.runtime.process.clock import NowMs, uptime_s
from backstop.runtime.settings import RuntimeSettings

FENCE_S_MAX: Final = 3_600.0
REQUEST_TIMEOUT_MS: Final = 10_000
PATIENCE_S: Final = 30.0
"""For an opening, and for one append: after that its outcome is unknown."""
TRANSACTION_TIMEOUT_MS: Final = 120_000
"""Well above `PATIENCE_S`: a transaction that times out has another epoch, and an opening of it is refused for good."""
BATCH_BYTES_MAX: Final = 262_144
"""A larger record has a batch of its own."""
EPOCHS_USED_MAX: Final = 32_700
"""Epochs from here to 32,766, the last one, only fence. After the last one a fence id has another producer id, and the
broker does not compare the epochs of two: until then no writer may be left that an epoch does not refuse."""
BUSY_WAIT_S: Final = 0.002
"""The coordinator writes markers, for 1 to 3 ms."""
BUSY_TRIES: Final = 10
"""After these the wait doubles, up to `RETRY_WAIT_S`."""
PRODUCER_FENCED: Final = 90
"""aiokafka 0.14 does not know this code."""

_ABORT, _ALL, _LATEST, _ALL_RECORDS, _NO_REPLICA = False, -1, -1, 0, -1


class FencedOffError(BackstopError):
    """A newer writer of the partition was opened. This one appends nothing more."""


class Fence(NamedTuple):
    """What a writer shows the broker."""

    producer_id: int
    epoch: int
    until_s: float
    """By `uptime_s`: the writer sends nothing later."""

    @property
    def over(self) -> bool:
        return uptime_s() >= self.until_s


class FencedRecord(NamedTuple):
    """A record to append."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


class Writer(Protocol):
    fence: Fence

    async def end(self) -> int:
        """An offset that is after all that was appended before this writer was opened."""

    async def append(self, entries: Sequence[FencedRecord]) -> None:
        """Return when all in-sync replicas have them, in order and once.

        After any exception some may be appended, now or later, until the next writer is opened. This writer must not
        be used again.

        :raises FencedOffError: a newer writer was opened. Entries of an earlier batch of this call may be appended.
        """


Begun = Callable[[Fence], None]


def _unheard(_fence: Fence) -> None:
    """The caller opens once."""


class Writers(Protocol):
    async def open(self, tp: TopicPartition, former: Fence | None, begun: Begun) -> Writer:
        """A writer; when it returns, the partition takes nothing more from older ones.

        :param former: of the writer or of the opening that it continues. If another has been opened since, the call is
            refused. None opens one in any case: for an owner that was just assigned the partition.
        :param begun: called with each fence that the coordinator gives, the writer's as the last. If the call fails
            after that, the latest is the next call's `former`: the one before is no longer the newest.
        :raises FencedOffError: see `former`; or another writer is being opened.
        """

    async def stop(self) -> None: ...


class _InitProducerIdResponse(Response):  # type: ignore[misc]
    API_KEY = 22
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32), ("error_code", Int16), ("producer_id", Int64), ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )  # fmt: skip


class _InitProducerIdStruct(RequestStruct):  # type: ignore[misc]
    """Kafka 2.5 and newer (KIP-360); aiokafka 0.14 has version 0 only, without the former epoch."""

    API_KEY = 22
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _InitProducerIdResponse
    SCHEMA = Schema(
        ("transactional_id", CompactString("utf-8")), ("transaction_timeout_ms", Int32), ("producer_id", Int64),
        ("producer_epoch", Int16), ("tags", TaggedFields),
    )  # fmt: skip


class _InitProducerId(Request[_InitProducerIdStruct]):  # type: ignore[misc]
    API_KEY = 22

    def __init__(self, fence_id: str, former: Fence | None) -> None:
        producer_id, epoch = former[:2] if former is not None else (-1, -1)
        self._values: tuple[Any, ...] = fence_id, TRANSACTION_TIMEOUT_MS, producer_id, epoch, {}

    def build(self, request_struct_class: type[_InitProducerIdStruct]) -> _InitProducerIdStruct:
        return request_struct_class(*self._values)


class FencedWriters:
    """See `Writers`. The writers share one client, which is started with the first.

    It is closed after an opening or an append that took longer than `PATIENCE_S`, as all brokers may have moved. The
    next opening makes another, which begins with the addresses of the settings.
    """

    def __init__(
        self, settings: RuntimeSettings, client_id: str, now_ms: NowMs, *,
        client: Callable[..., Any] = AIOKafkaClient,
    ) -> None:  # fmt: skip
        """:param client: makes aiokafka's client, or one that behaves the same.
        :param now_ms: stamps records. The broker counts by these stamps for how long it remembers a writer, so that
        a wrong clock of this machine must not reach it.
        """
        self._options = {
            **client_options(settings), "client_id": client_id, "request_timeout_ms": REQUEST_TIMEOUT_MS,
        }  # fmt: skip
        self._now_ms = now_ms
        self._new_client = client
        self._shared: SharedClient | None = None
        self._starting = asyncio.Lock()
        self._stopped = False

    async def open(self, tp: TopicPartition, former: Fence | None, begun: Begun = _unheard) -> "FencedWriter":
        shared: SharedClient | None = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                shared = await self._started(tp.topic)
                fence = await self._fenced(shared, tp, former, begun)
        except TimeoutError:
            if shared is not None:
                await shared.close()
            raise
        return FencedWriter(shared, tp, fence, self._now_ms)

    async def _fenced(self, shared: SharedClient, tp: TopicPartition, former: Fence | None, begun: Begun) -> Fence:
        fencing = _Fencing(shared, f"{tp.topic}-{tp.partition}")
        if former is not None:
            await fencing.end_former(former)
        while True:
            former = await fencing.fence(tp, former, begun)
            if former.epoch < EPOCHS_USED_MAX:
                return former

    async def stop(self) -> None:
        """No client is open after this, nor is one made: an opening that goes on fails."""
        self._stopped = True
        if self._shared is not None:
            await self._shared.close()

    async def _started(self, topic: str) -> SharedClient:
        async with self._starting:
            if self._shared is None or self._shared.closed:
                self._go_on()
                shared = SharedClient(self._new_client(**self._options))
                try:
                    await shared.start(topic)
                    self._go_on()
                except BaseException:
                    await shared.close()
                    raise
                self._shared = shared
            return self._shared

    def _go_on(self) -> None:
        if self._stopped:
            raise KafkaConnectionError("stopped")


_Answer = TypeVar("_Answer")


class _Fencing:
    """Talks to the coordinator of one fence id."""

    def __init__(self, shared: SharedClient, fence_id: str) -> None:
        self._shared = shared
        self._fence_id = fence_id
        self._node: int | None = None

    async def end_former(self, former: Fence) -> None:
        """End the transaction that an opening has left open. The coordinator would end it at the next request for an
        epoch too, but with an epoch of its own, after which it refuses `former`.

        No answer matters: that request is refused if another writer was opened.
        """
        with suppress(InvalidTxnState, FencedOffError):  # It has none; its epoch is not the newest.
            await self._ask(EndTxnRequest(self._fence_id, former.producer_id, former.epoch, _ABORT), _code)

    async def fence(self, tp: TopicPartition, former: Fence | None, begun: Begun) -> Fence:
        until_s = uptime_s() + FENCE_S_MAX
        told = await self._ask(_InitProducerId(self._fence_id, former), _code)
        fence = Fence(told.producer_id, told.producer_epoch, until_s)
        begun(fence)
        mine = self._fence_id, fence.producer_id, fence.epoch
        await self._ask(
            AddPartitionsToTxnRequest(*mine, [(tp.topic, [tp.partition])]),
            lambda answer: int(answer.errors[0][1][0][1]),
        )
        # The first answer says that the end is decided, the second one that the marker stands on the partition.
        for _ in range(2):
            await self._ask(EndTxnRequest(*mine, _ABORT), _code)
        return fence

    async def _ask(self, request: Any, code_of: Callable[[Any], int]) -> Any:
        """Repeat a request until it is taken. A repeat of each of these is harmless."""
        busy = 0
        while True:
            try:
                if self._node is None:
                    self._node = await self._shared.coordinator(self._fence_id)
                answer = await self._shared.send(self._node, request, group=ConnectionGroup.COORDINATION)
                _raise_for(code_of(answer), self._fence_id)
            except ConcurrentTransactions:
                await asyncio.sleep(busy_wait_s(busy))
                busy += 1
            except CoordinatorLoadInProgressError:
                await asyncio.sleep(RETRY_WAIT_S)
            except KafkaError as error:
                if not error.retriable:
                    raise
                self._node = None
                await self._shared.refresh()
            else:
                return answer


def busy_wait_s(tries: int) -> float:
    """How long a request waits for the transaction before it, after so many waits."""
    doublings = min(max(0, tries + 1 - BUSY_TRIES), 10)
    return float(min(RETRY_WAIT_S, BUSY_WAIT_S * 2**doublings))


class FencedWriter:
    """See `Writer`. Calls must not overlap."""

    def __init__(self, shared: SharedClient, tp: TopicPartition, fence: Fence, now_ms: NowMs) -> None:
        self.fence = fence
        self._shared = shared
        self._tp = tp
        self._now_ms = now_ms
        self._sequence = 0

    async def end(self) -> int:
        request = OffsetRequest(_NO_REPLICA, _ALL_RECORDS, [(self._tp.topic, [(self._tp.partition, _LATEST)])])
        return int(await self._repeated(request, _found_end))

    async def append(self, entries: Sequence[FencedRecord]) -> None:
        rest = list(entries)
        while rest:
            count, batch = self._packed(rest)
            topics = [(self._tp.topic, [(self._tp.partition, batch)])]
            await self._repeated(ProduceRequest(None, _ALL, REQUEST_TIMEOUT_MS, topics), _appended)
            self._sequence = (self._sequence + count) % 2**31
            rest = rest[count:]

    def _packed(self, entries: Sequence[FencedRecord]) -> tuple[int, bytes]:
        """A batch of the first entries, and their number."""
        builder = DefaultRecordBatchBuilder(
            2, 0, 0, self.fence.producer_id, self.fence.epoch, self._sequence, BATCH_BYTES_MAX
        )
        now_ms = self._now_ms()
        count = 0
        for entry in entries:
            if builder.append(count, now_ms, entry.key, entry.value, entry.headers) is None:
                break
            count += 1
        return count, bytes(builder.build())

    async def _repeated(self, request: Any, read: Callable[[Any], tuple[int, _Answer]]) -> _Answer:
        """Send the same bytes until the leader has taken them; it recognises a repeat by its sequence number.

        :raises KafkaTimeoutError: not taken in time.
        """
        place = f"{self._tp.topic}-{self._tp.partition}"
        last: KafkaError | None = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        code, answer = read(await self._send(request))
                        _raise_for(code, place)
                    except KafkaError as error:
                        if not error.retriable:
                            raise
                        last = error
                        await self._shared.refresh()
                    else:
                        return answer
        except TimeoutError:
            await self._shared.close()
            raise KafkaTimeoutError(f"{place}: not taken within {PATIENCE_S:g} s: {last!r}") from last

    async def _send(self, request: Any) -> Any:
        leader = await self._shared.leader(self._tp)
        if leader is None:
            raise LeaderNotAvailableError
        if self.fence.over:  # Nothing is awaited between here and the write to the socket.
            raise KafkaTimeoutError(f"the fence of {self._tp} is older than {FENCE_S_MAX:g} s")
        return await self._shared.send(leader, request)


def _code(answer: Any) -> int:
    return int(answer.error_code)


def _found_end(answer: Any) -> tuple[int, int]:
    ((_, ((_, code, *_, offset),)),) = answer.topics
    return code, offset


def _appended(answer: Any) -> tuple[int, None]:
    ((_, ((_, code, *_),)),) = answer.topics
    return code, None


def _raise_for(code: int, place: str) -> None:
    kind: Any = ProducerFenced if code == PRODUCER_FENCED else for_code(code)
    if kind is NoError:
        return
    if issubclass(kind, ProducerFenced | InvalidProducerEpoch | InvalidProducerIdMapping):
        raise FencedOffError(f"{place} has a newer writer ({kind.__name__})")
    raise kind(place)
