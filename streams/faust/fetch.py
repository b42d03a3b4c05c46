"""Fetches for Faust's consumer: records with the range of offsets that they cover, and seeks with an epoch.

Faust 0.15.3 loses records because its main loop can't distinguish a gap made by Kafka (compaction, transaction markers,
expired records) from one of its own (a record fetched and then dropped in a rebalance, upstream issue #596). Here every
`Chunk` has the range of its positions and the seek epoch in which it was read. The receiver compares: it drops a chunk
of an older epoch, and where a chunk does not begin at the end of the last one, it reads the hole again.

Faust runs aiokafka in a thread with a loop of its own. Here both run in the loop of the process: two threads hand the
interpreter's lock to and fro thousands of times a second, and each fetch waits for two wake-ups more.
"""

# This module works on private parts of aiokafka 0.14 and faust-streaming 0.15.3. Both are pinned, and the tests in
# `tests/kafka/faust` guard it.
# ruff: noqa: SLF001

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import ConsumerStoppedError
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types import TP
from mode import Service
from mode.utils.futures import maybe_async

from backstop.runtime.kafka.fetch_wait import (
    BUSY_WAIT_MS,
    FETCH_GAP_MS,
    HOLD_MS,
    FetchWait,
    GatheringPace,
    records_come,
)
from backstop.runtime.records import Record, record_of

FETCH_BYTES_MAX = 8 * 1024 * 1024
"""Of one fetch response, all partitions together (aiokafka's default: 50 MiB). Parsing takes three times as much."""

REASSIGNMENT_POLL_S = 0.02

BUSY_RECORDS = 10
BUSY_GAP_MS = 20
"""After a fetch with so many records, the next one begins later: under load, batches are worth more than their wait."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """All records of one partition in [start, end), of one fetch. There may be none."""

    epoch: int
    start: int
    end: int
    records: tuple[Record, ...]


class _NoThread:
    """In the place of mode's `WorkerThread`: the service is served by a task of the loop that starts it."""

    def __init__(self, service: "SourceFetcher") -> None:
        self._service = service

    def start(self) -> None:
        self.serving = asyncio.create_task(self._service._serve(), name="source-fetcher")
        self.serving.add_done_callback(self._ended)

    def stop(self) -> None:
        """See `SourceFetcher.stop`."""

    def _ended(self, serving: "asyncio.Task[None]") -> None:
        if not serving.cancelled() and serving.exception() is not None:  # `_serve` has told Faust of it.
            self._service.set_shutdown()


class SourceFetcher(AIOKafkaConsumerThread):  # type: ignore[misc]  # faust is untyped
    """Faust's consumer thread, with chunks instead of records, and without a thread."""

    Worker = _NoThread

    seek_epoch: int = 0
    """Counts seeks."""

    _fetch_wait: FetchWait

    _paused_of: Any = None
    """The assignment whose partitions were paused last, all but `_paused_but`."""

    _paused_but: frozenset[TP] = frozenset()

    _narrowed: Any = None
    """The fetcher that walks fetched partitions only."""

    wanted: frozenset[TP] = frozenset()
    """Partitions to fetch, see `want`."""

    async def call_thread(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await maybe_async(fun(*args, **kwargs))

    async def on_thread_started(self) -> None:
        """No queue of calls is needed."""

    async def stop(self) -> None:
        await super().stop()
        if self._thread is not None:
            await asyncio.wait({self._thread.serving})

    async def _gather_remaining_tasks(self) -> None:
        """Not this service's: those that are left in the loop belong to the process."""

    async def _keepalive2(self) -> None:
        """There is no other loop to keep awake."""

    @Service.task  # type: ignore[untyped-decorator]  # faust is untyped
    async def _thread_keepalive(self) -> None:
        """As `_keepalive2`."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        # The changelogs are paused when they are recovered, and no fetch has them.
        self._fetch_wait = GatheringPace(FETCH_GAP_MS, HOLD_MS, of=lambda _: self.consumer.sources())
        consumer = super()._create_worker_consumer(transport)
        # Without its own transactions Faust reads uncommitted records, and has no setting for it. Set before the start.
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = BUSY_WAIT_MS
        consumer._fetch_max_bytes = FETCH_BYTES_MAX
        return consumer

    def want(self, wanted: frozenset[TP]) -> None:
        """Set the partitions to fetch, and wake a waiting `chunks`."""
        if wanted != self.wanted:
            self.wanted = wanted
            fetcher: Any = None if self._consumer is None else self._consumer._fetcher
            for waiter in list(fetcher._fetch_waiters if fetcher is not None else ()):
                fetcher._notify(waiter)

    async def chunks(self, timeout_s: float) -> dict[TP, Chunk]:
        """Fetched chunks of the wanted partitions; waits up to `timeout_s` for one."""
        consumer = self._ensure_consumer()
        fetcher = consumer._fetcher
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        with fetcher._subscriptions.fetch_context():  # The group coordinator counts this as a poll.
            while True:
                if consumer._closed or fetcher._closed:
                    raise ConsumerStoppedError
                remaining_s = deadline_s - loop.time()
                if fetcher._subscriptions.reassignment_in_progress:
                    if remaining_s <= 0:
                        return {}
                    await asyncio.sleep(REASSIGNMENT_POLL_S)
                    continue
                self._pause_unwanted(consumer)
                found = self._take(fetcher)
                self._fetch_wait.saw(consumer, records=bool(found))
                if found:
                    busy = sum(len(chunk.records) for chunk in found.values()) >= BUSY_RECORDS
                    self._fetch_wait.gap_ms = BUSY_GAP_MS if busy else FETCH_GAP_MS
                if found or remaining_s <= 0:
                    return found
                await records_come(fetcher, remaining_s)

    def _pause_unwanted(self, consumer: Any) -> None:
        """Let aiokafka fetch only wanted partitions.

        Faust would leave the others unread. aiokafka then keeps a fetched batch of each for as long as the process
        lives (up to 1 MiB a partition, also of its changelogs), and delays other fetches by 100 ms when one arrives.
        """
        fetcher = consumer._fetcher
        subscription = fetcher._subscriptions.subscription
        assignment = None if subscription is None else subscription.assignment
        if assignment is self._paused_of and self.wanted == self._paused_but:
            return
        self._paused_of, self._paused_but = assignment, self.wanted
        paused = consumer.paused()
        for topic_partition in consumer.assignment():
            unwanted = TP(topic_partition.topic, topic_partition.partition) not in self.wanted
            if unwanted != (topic_partition in paused):
                (consumer.pause if unwanted else consumer.resume)(topic_partition)
        if fetcher is not self._narrowed:
            self._narrowed = fetcher
            _walk_fetched_only(fetcher)
        fetcher._notify(fetcher._wait_consume_future)

    def _take(self, fetcher: Any) -> dict[TP, Chunk]:
        """All that aiokafka has fetched of the wanted partitions, one chunk for each.

        There is no await here, so that positions and epoch match.
        """
        found: dict[TP, Chunk] = {}
        for topic_partition, fetched in list(fetcher._records.items()):
            tp = TP(topic_partition.topic, topic_partition.partition)
            if not fetcher._subscriptions.is_assigned(topic_partition):
                del fetcher._records[topic_partition]
                continue
            if tp not in self.wanted:
                continue
            if hasattr(fetched, "check_raise"):  # An error: raised alone, so that no chunk is lost.
                if not found:
                    del fetcher._records[topic_partition]
                    fetcher._notify(fetcher._wait_consume_future)
                    fetched.check_raise()
                continue
            chunk = self._drain(topic_partition, fetched)
            if chunk is None or not fetched.has_more():
                del fetcher._records[topic_partition]
                fetcher._notify(fetcher._wait_consume_future)
            if chunk is not None:
                found[tp] = chunk
        return found

    def _drain(self, topic_partition: Any, fetched: Any) -> Chunk | None:
        assignment = fetched._assignment
        if not assignment.active:
            return None
        state = assignment.state_value(topic_partition)
        if state is None or not state.has_valid_position:
            return None
        start: int = state.position
        records = fetched.getall(None)
        end: int = state.position
        if end <= start:
            return None
        return Chunk(self.seek_epoch, start, end, tuple(record_of(record) for record in records))

    async def seek_all(self, choose: Callable[[TP, int | None, int, int], int], tps: frozenset[TP]) -> "Sought":
        """Seek each partition to `choose(partition, committed, beginning, end)`."""
        consumer = self._ensure_consumer()
        beginnings = await consumer.beginning_offsets(tps)
        ends = await consumer.end_offsets(tps)
        committed = dict(zip(tps, await asyncio.gather(*(consumer.committed(tp) for tp in tps)), strict=True))
        positions = {tp: choose(tp, committed[tp], beginnings[tp], ends[tp]) for tp in tps}
        self.seek_epoch += 1
        for tp, position in positions.items():
            consumer.seek(tp, position)
        return Sought(self.seek_epoch, positions, committed)

    async def seek_again(self, tp: TP, position: int) -> tuple[int, int]:
        """Seek to `position`, or to the log's beginning if that is later.

        Returns the new epoch and the position. Chunks of other partitions read before the seek have an older epoch and
        stay valid; so the caller keeps an epoch per partition.
        """
        consumer = self._ensure_consumer()
        beginning = (await consumer.beginning_offsets([tp]))[tp]
        sought = max(position, beginning)
        self.seek_epoch += 1
        consumer.seek(tp, sought)
        return self.seek_epoch, sought

    async def _seek_wait(self, consumer: Any, partitions: Mapping[TP, int]) -> None:
        # Recovery's seeks in the changelogs.
        self.seek_epoch += 1
        await super()._seek_wait(consumer, partitions)


def _walk_fetched_only(fetcher: Any) -> None:
    """Hide paused partitions from aiokafka's fetcher: all changelogs, once they are recovered.

    At each event it would walk through them, and add a callback to a future of each. Its loop is woken where one is
    wanted again. A partition whose position is not known yet stays in sight: the walk finds it out.
    """
    actions = fetcher._get_actions_per_node

    def seen(state: Any) -> bool:
        return not state.paused or not state.has_valid_position

    def narrowed(assignment: Any) -> Any:
        tps = [tp for tp in assignment.tps if seen(assignment.state_value(tp))]
        return actions(_Fetched(tps, assignment.state_value))

    fetcher._get_actions_per_node = narrowed


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What the walk needs of an assignment."""

    tps: list[Any]
    state_value: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Sought:
    """The result of a seek: its epoch, the new positions, and the committed offsets."""

    epoch: int
    positions: Mapping[TP, int]
    committed: Mapping[TP, int | None]
