"""Replaces Faust and `streams.faust.consumer` for the folds of a simulated worker.

It joins, recovers, and hands out each partition's records, one batch at a time. The real `SourceLane` decides which
are fetched and which are handed over. It commits the end of the acknowledged records. On a rebalance it waits for the
batches in progress, commits, and then moves.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from backstop.runtime.errors import BrokerUnavailableError
from streams.faust.source_lane import SourceLane
from streams.results import ResultsFencedError
from streams.tables.changelog import OvertakenError
from streams.tables.fold_table import PartitionNotOwnedError
from tests.simulation.broker import Broker, Log, Member, Record
from tests.simulation.chaos import Life
from tests.simulation.tables import Table
from tests.simulation.wrong import Wrong

COMMIT_INTERVAL_S = 1.0
DRAIN_S = 5.0

Handle = Callable[[int, Sequence[Record]], Awaitable[None]]

EXPECTED_ENDS = (BrokerUnavailableError, ResultsFencedError, OvertakenError, PartitionNotOwnedError)
"""Failures after which a worker must end by itself. Any other failure is a defect."""


class FoldConsumer:
    """See the module."""

    def __init__(
        self, life: Life, broker: Broker, host: str, tables: Sequence[Table], handlers: dict[str, tuple[str, Handle]],
        recovered: Callable[[set[int]], None], handled: set[tuple[str, int, int]], wrong: Wrong,
    ) -> None:  # fmt: skip
        self._life = life
        self._broker = broker
        self._group = broker.groups["worker"]
        self._member = Member(life, host)
        self._tables = tables
        self._handlers = handlers
        self._recovered = recovered
        self._wrong = wrong
        self._done: dict[tuple[str, int], int] = {}
        self._lanes: dict[tuple[str, int], SourceLane] = {}
        self._open = False
        self._generations_recovered = 0
        self.handled = handled
        """(topic, partition, offset) of each record whose handler returned, in any life."""

    async def run(self, stop: asyncio.Event) -> None:
        member, group = self._member, self._group
        while not stop.is_set():
            if not group.holds(member):
                member = self._member = Member(self._life, member.host)
            await group.join(member)
            if not group.holds(member) or not await self._recover(member):
                continue
            await self._serve(member, stop)
        if not self._broker.chaos.mixture.static:
            group.leave(member)

    async def _recover(self, member: Member) -> bool:
        mine = set(member.partitions)
        for table in self._tables:
            table.reassigned(mine)
        if self._wrong.index_before_recovery:
            for table in self._tables:
                table.recovered(mine)
            self._recovered(mine)
            for table in self._tables:
                table._store.watches.clear()
        for table in self._tables:
            await table.recover(mine)
            if member.moving.is_set():
                return False
        for table in self._tables:
            table.recovered(mine)
        early = self._wrong.index_before_recovery
        again = self._wrong.no_index_after_rebalance and self._generations_recovered
        if not early and not again:
            self._recovered(mine)
        if self._wrong.no_index_after_rebalance:
            for table in self._tables:
                table._store.watches.clear()
        self._generations_recovered += 1
        return True

    async def _serve(self, member: Member, stop: asyncio.Event) -> None:
        """Run until the group moves or `stop`; then all batches have ended and are committed."""
        self._open = True
        self._done, self._lanes = {}, {}
        wakes: list[tuple[Log, asyncio.Event]] = []
        lanes = []
        for topic, (name, handle) in self._handlers.items():
            for partition in member.partitions:
                log = self._broker.logs[topic, partition]
                wake = asyncio.Event()
                log.watchers.append(wake)
                wakes.append((log, wake))
                lanes.append(self._life.spawn(self._lane(log, wake, name, handle)))
        committing = self._life.spawn(self._commit_all(member))
        stopping = self._life.spawn(_waited(stop))
        moving = self._life.spawn(_waited(member.moving))
        try:
            await asyncio.wait({stopping, moving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open = False
            self._lanes = {}
            for log, wake in wakes:
                log.watchers.remove(wake)
            for task in (committing, stopping, moving):
                task.cancel()
        for _, wake in wakes:
            wake.set()
        if lanes:
            _, late = await asyncio.wait(set(lanes), timeout=DRAIN_S)
            if late:
                self._life.chaos.met.add("handler did not end in time")
                self._life.kill("a handler did not end in time")
        await self._commit(member)

    async def _lane(self, log: Log, wake: asyncio.Event, name: str, handle: Handle) -> None:
        place = (log.topic, log.partition)
        position = self._group.committed.get(place, 0)
        lane = self._lanes[place] = SourceLane(log.topic, log.partition, 0, position, None)
        chaos = self._broker.chaos
        while self._open:
            if not (lane.pending and chaos.chance(0.5)):
                await self._life.point(f"{name}.fetch")
                if not self._open:  # it may have been closed at the point above
                    return  # type: ignore[unreachable]
                fetched: Sequence[Any] = log.read(lane.fetched, chaos.mixture.batch_records_max)
                if fetched:
                    lane.take(fetched, fetched[-1].offset + 1)
            if not lane.pending:
                if not log.read(lane.fetched, 1):
                    wake.clear()
                    await wake.wait()
                continue
            records: Sequence[Any] = lane.pending.next_batch(chaos.mixture.batch_records_max)
            position = lane.out_end = records[-1].offset + 1
            lane.out = records
            if self._wrong.acknowledges_before_rows:
                self._done[place] = position
            try:
                await handle(log.partition, records)
            except EXPECTED_ENDS as error:
                self._life.chaos.met.add(f"ended by {type(error).__name__}")
                if not self._wrong.acknowledges_failures:
                    self._life.kill(f"ended by {error!r}")
                    return
            except Exception as error:
                self._life.chaos.defect(error)
                self._life.kill(f"ended by {error!r}")
                return
            self.handled.update((log.topic, log.partition, record.offset) for record in records)
            lane.out = None
            self._done[place] = position

    def landed(self, record: Record) -> None:
        """As `BatchConsumer.landed`."""
        lane = self._lanes.get((record.topic, record.partition))
        if lane is None:
            return
        if self._wrong.hands_over_past_others:
            lane.expected = record.offset
        taken: Any = record
        if lane.hand_over(taken):
            self._broker.chaos.met.add("a fact is handed over")

    async def _commit_all(self, member: Member) -> None:
        while True:
            await asyncio.sleep(COMMIT_INTERVAL_S)
            await self._commit(member)

    async def _commit(self, member: Member) -> None:
        done = {place: at for place, at in self._done.items() if self._group.committed.get(place, 0) < at}
        if not done:
            return
        if not self._wrong.commits_before_rows and not await self._rows_written():
            return
        await self._life.point("worker.commit")
        self._group.commit(member, done)
        await self._life.point("worker.committed")

    async def _rows_written(self) -> bool:
        """As `FoldApp.write_rows`."""
        try:
            for table in self._tables:
                await table.flush()
        except EXPECTED_ENDS as error:
            self._life.chaos.met.add(f"ended by {type(error).__name__}")
            if not self._wrong.acknowledges_failures:
                self._life.kill(f"ended by {error!r}")
                return False
            for table in self._tables:
                table._begin_gathering()  # It takes what failed for written.
        return True


async def _waited(event: asyncio.Event) -> None:
    await event.wait()
