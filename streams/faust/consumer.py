"""Faust's consumer, hardened: one event per batch of records of one partition, and a commit that never runs ahead.

Stock faust-streaming 0.15.3 spends 60 µs and four asyncio tasks on each record, and loses records in rebalances.
`BatchConsumer` hands an agent one event per (topic, partition, up to `batch_records_max` records). The event's value is
a `list[Record]` in offset order, `event.message.partition` the partition, `event.message.offset` the last record's
offset.

Rules, each with a regression test on a real broker (`tests/kafka/faust`):

1. Per partition at most **one** event is out. Later records are queued (up to a limit, see `PendingRecords`) for
   the next batch. So records can't be acknowledged out of order (upstream #606), and load makes batches larger.
2. The committed offset of a partition is the end of its last acknowledged batch: the position after its last record, or
   after the transaction markers that follow it. Missing offsets (compacted, aborted) belong to the batch before or
   after.
3. A record of this process is delivered when it is acknowledged, without a fetch, if it is the next one
   (`SourceLane`).
4. A chunk is delivered only if it continues the last one; a hole is read again (upstream #596: a record dropped between
   two phases of a rebalance is never skipped).
5. A commit waits until the rows of its records are written (`FoldTable.flush`).
6. A revocation waits for the events that are out, commits, and only then forgets the acknowledged offsets. If a handler
   does not end within `drain_timeout_s`, the process ends; the next owner takes the unacknowledged records.
7. A commit that failed changes nothing (upstream PR #692).
"""

# This module works on private parts of Faust and aiokafka; both are pinned, and tests guard it.
# ruff: noqa: SLF001

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from aiokafka.errors import TopicAuthorizationFailedError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from mode import Service

from backstop.runtime.records import Record
from schemas.unreadable import Unreadable
from streams import metrics
from streams.faust.fetch import Chunk, SourceFetcher
from streams.faust.source_lane import SourceLane
from streams.tables.lost_tail import LogTruncatedError, TableProgress, refuse_truncated

__all__ = ["BatchConsumer", "BatchTransport"]

BATCH_RECORDS_MAX = 500
CHANGELOG_CHUNKS_MAX = 4
"""Chunks of a changelog that wait to be applied."""
DRAIN_TIMEOUT_S = 30.0
POLL_S = 1.0


class _BatchMessage(ConsumerMessage):  # type: ignore[misc]  # faust is untyped
    """Notices the acknowledgement. Faust acknowledges in three places, one of them compiled; each sets `acked`."""

    __slots__ = ("_acked", "consumer", "lane")
    lane: SourceLane
    consumer: "BatchConsumer"

    @property
    def acked(self) -> bool:
        return self._acked

    @acked.setter
    def acked(self, value: bool) -> None:
        self._acked = value
        if value:
            self.consumer._on_acked(self.lane, self)


class DamagedChangelogError(Exception):
    """Rows that can't be read. Only Backstop writes there, so the broker's disk is damaged; a skip would lose jobs."""

    def __init__(self, record: Record) -> None:
        assert isinstance(record.value, Unreadable)
        super().__init__(
            f"changelog {record.topic}, partition {record.partition}, {record.value.detail}: the rows can't be read, "
            "so the table can't be recovered; restore the partition from a replica, or start from a local store that "
            "is ahead of these offsets"
        )


class BatchConsumer(driver.Consumer):  # type: ignore[misc]  # faust is untyped
    """See the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lanes: dict[TP, SourceLane] = {}
        metrics.OLDEST_BATCH_SECONDS.set_function(self.oldest_out_s)
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> SourceFetcher:
        return SourceFetcher(self, loop=self.loop, thread_loop=self.loop, beacon=self.beacon)

    # -- delivery

    async def _drain_messages(self, fetcher: Any) -> None:
        stopped, fetcher_stopped = self._stopped.is_set, fetcher._stopped.is_set
        try:
            while not (stopped() or fetcher_stopped()):
                if not self.flow_active:
                    await self.wait(self.can_resume_flow)
                    continue
                self._want()
                for tp, chunk in (await self._thread.chunks(POLL_S)).items():
                    if self._is_changelog_tp(tp):
                        await self._recover(tp, chunk)
                    else:
                        await self._accept(tp, chunk)
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise

    def _want(self) -> None:
        """Tell the fetcher which partitions to fetch: during a rebalance only changelogs (upstream #596)."""
        wanted = frozenset[TP]()
        if self.flow_active:
            wanted = frozenset(tp for tp in self._active_partitions if self._takes(tp))
        self._thread.want(wanted)

    def _takes(self, tp: TP) -> bool:
        if self._is_changelog_tp(tp):
            return True
        lane = self._lanes.get(tp)
        return not self.app.rebalancing and lane is not None and not lane.pending.full

    async def _recover(self, tp: TP, chunk: Chunk) -> None:
        """Hand a chunk of a changelog to Faust's recovery as one event; `FoldStore` unpacks it."""
        if chunk.epoch != self._thread.seek_epoch or not self.flow_active:
            return  # A rebalance came between: recovery seeks again, to the end of what it has applied.
        damaged = next((record for record in chunk.records if isinstance(record.value, Unreadable)), None)
        if damaged is not None:
            self.app.fail(DamagedChangelogError(damaged))
            return
        message = self._message(tp, chunk.end - 1, list(chunk.records), ConsumerMessage)
        for channel in self.app.topics._tp_index.get(tp, ()):
            # Faust's queue has no event for "shrunk".
            while channel.queue.qsize() >= CHANGELOG_CHUNKS_MAX and self.flow_active:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            if self.flow_active:
                channel.queue.force_put_nowait(self.app.create_event(None, message.value, {}, message))

    async def _accept(self, tp: TP, chunk: Chunk) -> None:
        """Queue a chunk if it continues its partition; read a hole again; drop a chunk of an earlier seek."""
        lane = self._lanes.get(tp)
        if lane is None or self.app.rebalancing or not self.flow_active or chunk.epoch < lane.epoch:
            return  # The seek at the end of the rebalance reads the chunk again.
        if chunk.start != lane.fetched:
            await self._close_hole(tp, lane, chunk)
            return
        try:
            lane.take(chunk.records, chunk.end)
        except LogTruncatedError as error:
            self.app.fail(error)
            return
        self._deliver(tp, lane)

    async def _close_hole(self, tp: TP, lane: SourceLane, chunk: Chunk) -> None:
        metrics.HOLES_CLOSED.inc()
        if chunk.start < lane.fetched:
            # The broker moved the position back: its log is shorter than before (an unclean leader election).
            if tp.topic in self.app.fold_tables:
                self.app.fail(LogTruncatedError(tp.topic, tp.partition, lane.expected - 1))
                return
            self.log.error("%s: position went back from %d to %d; reading again", tp, lane.fetched, chunk.start)
            lane.epoch, lane.fetched = await self._thread.seek_again(tp, chunk.start)
            lane.expected = lane.fetched
            return
        epoch, position = await self._thread.seek_again(tp, lane.fetched)
        if position > lane.expected:
            metrics.RECORDS_EXPIRED.inc(position - lane.expected)
            self.log.error("%s: retention removed [%d, %d) unread", tp, lane.expected, position)
        lane.begin_again(epoch, position)

    def landed(self, record: Record) -> None:
        """A record that this process has written is acknowledged. It is taken from memory if it is the next one."""
        tp = TP(record.topic, record.partition)
        lane = self._lanes.get(tp)
        if lane is not None and self.flow_active and not self.app.rebalancing and lane.hand_over(record):
            self._deliver(tp, lane)

    def sources(self) -> Iterable[TP]:
        """The partitions of the source topics that are owned and sought."""
        return self._lanes

    def _deliver(self, tp: TP, lane: SourceLane) -> None:
        if lane.out is not None or not lane.pending or not self.flow_active or self.app.rebalancing:
            return
        channels = self.app.topics._tp_index.get(tp)
        if not channels:
            return
        records = lane.pending.next_batch(self.app.batch_records_max)
        message = self._message(tp, records[-1].offset, records, _BatchMessage)
        message.lane, message.consumer = lane, self
        lane.out = message
        lane.out_since_s = self.loop.time()
        lane.out_end = lane.pending.first_offset if lane.pending else lane.expected
        message.incref(len(channels))
        for channel in channels:
            channel.queue.force_put_nowait(self.app.create_event(None, records, {}, message))

    def _message(self, tp: TP, offset: int, records: list[Record], kind: type[Any]) -> Any:
        return kind(
            tp.topic,
            tp.partition,
            offset,
            records[-1].timestamp_ms / 1000 if records else 0.0,
            0,
            None,
            None,
            records,
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    def _on_acked(self, lane: SourceLane, message: _BatchMessage) -> None:
        if lane.out is not message or self._lanes.get(message.tp) is not lane:
            return  # A message of an earlier assignment.
        was_full = lane.pending.full
        lane.out, lane.done = None, lane.out_end
        self._deliver(message.tp, lane)
        if was_full and not lane.pending.full:
            self._want()

    def handled(self) -> dict[tuple[str, int], int]:
        """Per owned partition, the first offset that is not acknowledged yet; empty during a rebalance.

        May be called from another thread.

        :raises RuntimeError: the assignment changed during the call.
        """
        if self.app.rebalancing or not self.flow_active:
            return {}
        return {(tp.topic, tp.partition): lane.handled for tp, lane in self._lanes.items()}

    def oldest_out_s(self) -> float:
        """Age of the oldest unacknowledged batch in seconds, 0 without one. May be called from another thread."""
        since_s = [lane.out_since_s for lane in list(self._lanes.values()) if lane.out is not None]
        return self.loop.time() - min(since_s) if since_s else 0.0

    # -- seeks and commits

    async def perform_seek(self) -> None:
        """Seek the source partitions: those of folds as `TableProgress.position` says, others to the committed offset.

        Without a committed offset in the log, the latter go to the beginning.
        """
        tps = frozenset(tp for tp in self.assignment() if not self._is_changelog_tp(tp))
        self._lanes.clear()
        if not tps:
            return
        folds = self.app.fold_tables
        tables: dict[TP, TableProgress] = {tp: folds[tp.topic].taken(tp.partition) for tp in tps if tp.topic in folds}
        try:
            await refuse_truncated(self.app.producer_options, tables)
        except LogTruncatedError as error:
            self.app.fail(error)
            raise
        choices = {tp: taken.position for tp, taken in tables.items()}
        sought = await self._thread.seek_all(lambda tp, *known: choices.get(tp, _position)(*known), tps)
        for tp, position in sought.positions.items():
            committed = sought.committed[tp]
            if committed is not None and committed != position:
                metrics.RECORDS_EXPIRED.inc(max(0, position - committed))
                self.log.error("%s: reading from %d instead of the committed offset %d", tp, position, committed)
            known = committed if committed == position else None
            self._lanes[tp] = SourceLane(tp.topic, tp.partition, sought.epoch, position, known)
            self._committed_offset[tp] = committed
            self._read_offset[tp] = position
        back = {tp: sought.positions[tp] for tp, taken in tables.items() if taken.lost}
        if back:
            self.log.error("changelogs lost rows; the records of these rows are read again from: %s", back)
            # Commit at once: after a crash before the first commit, the next start would not know of the loss.
            if not await self._commit(back):
                self.app.fail(RuntimeError(f"can't commit {back}, the positions before the lost rows"))

    def resume_flow(self) -> None:
        super().resume_flow()
        self._want()

    def stop_flow(self) -> None:
        super().stop_flow()
        self._want()

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        super().pause_partitions(tps)
        self._want()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        super().resume_partitions(tps)
        self._want()

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        # A copy, because lanes change while a commit awaits.
        for tp, lane in list(self._lanes.items()):
            if lane.done is not None and (topics is None or tp in topics or tp.topic in topics):
                yield tp

    def _new_offset(self, tp: TP) -> int | None:
        # Faust's own bookkeeping is filled but never read: keep it empty.
        self._acked.pop(tp, None)
        self._acked_index.pop(tp, None)
        return self._lanes[tp].done

    def _should_commit(self, tp: TP, offset: int) -> bool:
        committed = self._lanes[tp].committed
        return committed is None or offset > committed

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        del start_new_transaction  # For exactly-once, which is not used.
        assigned = self.assignment()
        lanes = {tp: self._lanes[tp] for tp in offsets if tp in assigned and tp in self._lanes}
        await self.app.write_rows()
        if not lanes or not await self._commit({tp: offsets[tp] for tp in lanes}):
            return False
        for tp, lane in lanes.items():
            lane.committed = offsets[tp]
            if self._lanes.get(tp) is lane:
                self._committed_offset[tp] = offsets[tp]
        self.app.monitor.on_tp_commit({tp: offsets[tp] for tp in lanes})
        return True

    # -- revocation and stop

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Wait for the events that are out and commit them before Faust forgets them; Faust would commit afterwards."""
        self.stop_flow()
        self.app.flow_control.suspend()
        self.app.flow_control.clear()
        await self.wait_empty()
        self._lanes.clear()
        await super().on_partitions_revoked(revoked)

    async def wait_empty(self) -> None:
        """Wait for the events that an agent has begun, then commit. After `drain_timeout_s` the process ends."""
        deadline_s = self.loop.time() + self.app.drain_timeout_s
        while any(lane.out is not None and lane.out.tracked and not lane.out.acked for lane in self._lanes.values()):
            if self.loop.time() >= deadline_s:
                self.app.fail(TimeoutError(f"an agent did not finish its batch within {self.app.drain_timeout_s:g} s"))
                return
            await asyncio.sleep(0.005)
        await self.app.write_rows()
        while await self.maybe_wait_for_commit_to_finish():
            pass
        await self.commit()

    def _is_changelog_tp(self, tp: TP) -> bool:
        return tp.topic in self.app.tables._changelogs

    @Service.task  # type: ignore[untyped-decorator]  # faust is untyped
    async def _commit_livelock_detector(self) -> None:
        """Off: Faust's detector reads clocks that are not updated here. Alert on `backstop_oldest_batch_seconds`."""


class BatchTransport(driver.Transport):  # type: ignore[misc]  # faust is untyped
    """Makes Faust use `BatchConsumer`. Set `app.transport` to one before the app starts."""

    Consumer: ClassVar[type[BatchConsumer]] = BatchConsumer

    async def _create_topic(self, owner: Any, client: Any, topic: str, *partitions: Any, **settings: Any) -> None:
        """Make a changelog, unless this worker has no right to. A topic that is there is then used as it is, and one
        that is not stops the start (`FoldTable.start`). Faust asks to create it at each start, also where it exists.
        """
        try:
            await super()._create_topic(owner, client, topic, *partitions, **settings)
        except TopicAuthorizationFailedError:
            owner.log.info("%s: this worker may not create topics; `backstop topics create` makes it", topic)


def _position(committed: int | None, beginning: int, end: int) -> int:
    return committed if committed is not None and beginning <= committed <= end else beginning
