"""The projector: takes each record of the logs into the read model, once.

A turn polls, parses, and writes rows, timeline, changes and its own offsets in one transaction. A crash loses the whole
transaction or nothing, and the next turn continues at the database's offsets. Two projections share the partitions by
Kafka's group; one that wakes up after being declared dead finds its epoch outdated, writes nothing, and joins again.
The group only distributes partitions: its commits serve lag tools, and are never read back.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from aiokafka.errors import KafkaError

from backstop.readmodel import store
from backstop.readmodel.batch import ParsedRecord, RecordFailedError, Writes
from backstop.readmodel.costs import changes_by_model
from backstop.readmodel.database import Connection, Database, DatabaseAwayError, FencedError
from backstop.readmodel.metrics import ProjectionMetrics
from backstop.readmodel.parse import parse
from backstop.readmodel.settings import ProjectionSettings
from backstop.readmodel.store import Move, OwnedPartition
from backstop.runtime.errors import BrokerUnavailableError, ConfigurationError
from backstop.runtime.kafka.consumer_group import ConsumerGroup
from backstop.runtime.kafka.dead_letters import dead_letter
from backstop.runtime.kafka.fetch_wait import GatheringPace
from backstop.runtime.kafka.lifetimes import broker_errors
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.process.clock import NowMs, monotonic_s
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.process.logs import get_logger
from backstop.runtime.process.pausing import pause
from backstop.runtime.records import Partition
from backstop.runtime.records import Record as RawRecord
from schemas.codec import PoisonError
from schemas.dead_letters import DeadLetter

TOPICS = ("jobs", "responses", "results", "dead-letters")
POLL_MS = 500
"""Wait of a poll without records; a poll with records returns at once. A stop may take as long."""
GATHER_MS = 50
"""Records that come within this time are written in one transaction. A fetch and a transaction cost as much processor
time as some thirty records. A record that comes alone is taken at once.
"""
GATHER_BUSY_MS = 150
BUSY_RECORDS = 60
"""A turn with so many records is followed by a longer gap: each turn costs, and under load a row may be later."""
SESSION_MS = 6_000
"""The broker's default minimum: the time until a killed projection's partitions move to another one."""
POLL_INTERVAL_MAX_MS = 300_000
"""A projection whose database is away for longer leaves the partitions to another one."""
BACKOFF_MS = 50
COMMIT_EVERY_S = 1.0

log = get_logger("backstop.readmodel.projector")


class Projector:
    """Runs until stopped; waits while the database or the broker is away."""

    def __init__(
        self, settings: ProjectionSettings, database: Database, publisher: Publisher, now_ms: NowMs,
        metrics: ProjectionMetrics,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._prices = settings.prices()
        self._database = database
        self._publisher = publisher
        self._now_ms = now_ms
        self._metrics = metrics
        self._pace = GatheringPace(GATHER_MS)
        self._group = ConsumerGroup(
            settings, topics=TOPICS, group="readmodel", session_timeout_ms=SESSION_MS,
            moving=self._forget_claims, pace=self._pace, isolation_level="read_committed",
            max_poll_interval_ms=POLL_INTERVAL_MAX_MS,
        )  # fmt: skip
        self._owned: dict[Partition, OwnedPartition] = {}
        self._moves = 0
        """Counts rebalances: work begun before one is not finished after it."""
        self._writing = asyncio.Lock()
        self._told_kafka: dict[Partition, int] = {}
        self._told_kafka_at_s = 0.0
        self._behind: dict[Partition, int] = {}
        """Partitions not yet read to the end they had when claimed, with that end."""

    @property
    def owned(self) -> Mapping[Partition, int]:
        """The claimed partitions, with the next offset of each; empty during a rebalance."""
        return {partition: owned.next_offset for partition, owned in self._owned.items()}

    def not_ready(self) -> str | None:
        """Why the read model lags behind the ends that the logs had at the claim; None when it has caught up."""
        if not self._owned:
            return "no partitions are assigned and claimed"
        behind = len(self._behind)
        return f"{behind} partitions are still being read to their end" if behind else None

    async def run(self, stop: asyncio.Event) -> None:
        """Project until `stop`.

        :raises ConfigurationError: the database belongs to other logs, or its schema is another release's.
        """
        wait_ms = BACKOFF_MS
        try:
            while not stop.is_set():
                try:
                    await self._turn()
                    wait_ms = BACKOFF_MS
                except FencedError as error:
                    self._metrics.fenced.inc()
                    log.warning("readmodel_fenced", reason=str(error))
                    await self._group.stop()
                except (DatabaseAwayError, BrokerUnavailableError) as error:
                    what = "database" if isinstance(error, DatabaseAwayError) else "broker"
                    self._metrics.away.labels(what).inc()
                    log.warning("readmodel_away", what=what, reason=str(error), wait_ms=wait_ms)
                    await self._forget_claims()
                    if what == "broker":
                        # Join anew: aiokafka's consumer does not recover from every failure.
                        await self._group.stop()
                    await pause(stop, wait_ms / 1000)
                    wait_ms = min(2 * wait_ms, self._settings.readmodel_backoff_max_ms)
        finally:
            await self._group.stop()

    async def _turn(self) -> None:
        if not self._group.joined:
            await self._database.open()
            with broker_errors("the read model's consumer could not start"):
                await self._group.join()
        if self._assigned() != self._owned.keys():
            await self._take_over()
        with broker_errors("poll"):
            found = (await self._group.take(self._settings.readmodel_batch_records_max, POLL_MS)).by_partition
        self._pace.gap_ms = GATHER_BUSY_MS if sum(map(len, found.values())) >= BUSY_RECORDS else GATHER_MS
        if found:
            async with self._writing:
                await self._take(found)
        else:
            self._metrics.lag.set(0)
        if self._behind:
            await self._catch_up()
        await self._tell_kafka()

    async def _forget_claims(self) -> None:
        """After a rebalance or a database failure: no partition is owned until it is claimed again."""
        async with self._writing:  # a write in progress still has its claim: let it finish
            self._moves += 1
            self._owned = {}
            self._behind = {}

    def _assigned(self) -> frozenset[Partition]:
        return self._group.partitions if self._group.owns else frozenset()

    async def _take_over(self) -> None:
        """Claim the assigned partitions in the database, and continue from the database's offsets."""
        moves = self._moves
        assigned = self._assigned()
        if not assigned:
            return
        owned = await self._database.write(lambda conn: store.claim(conn, assigned))
        with broker_errors("offsets"):
            firsts, ends = await self._group.first_offsets(assigned), await self._group.end_offsets(assigned)
        for partition, first in firsts.items():
            gone = first - owned[partition].next_offset
            if gone > 0 and owned[partition].next_offset > 0:
                # The projection was away for longer than the log's retention. The records are lost; operators must
                # learn of it.
                self._metrics.gone.labels(partition[0]).inc(gone)
                log.error("readmodel_records_gone", topic=partition[0], partition=partition[1], records=gone)
        for partition, end in ends.items():
            if owned[partition].next_offset > end:
                raise ConfigurationError(
                    f"the read model has taken {partition[0]}/{partition[1]} up to {owned[partition].next_offset}, but "
                    f"the log ends at {end}: it is another log. Use the database of this log, or run "
                    "`backstop readmodel rebuild`"
                )
        if self._moves != moves or self._assigned() != assigned:
            return
        self._group.seek({partition: claimed.next_offset for partition, claimed in owned.items()})
        self._owned = owned
        self._behind = {partition: end for partition, end in ends.items() if owned[partition].next_offset < end}
        self._told_kafka = {}
        log.info("readmodel_claimed", partitions=len(owned), behind=len(self._behind))

    async def _catch_up(self) -> None:
        """Remove the partitions read to their end. Judged by position: the last offsets may be transaction markers."""
        with broker_errors("positions"):
            positions = await self._group.positions(self._behind.keys() & self._owned.keys())
        self._behind = {partition: end for partition, end in self._behind.items() if positions.get(partition, 0) < end}
        if not self._behind:
            log.info("readmodel_caught_up")

    async def _take(self, found: Mapping[Partition, list[RawRecord]]) -> None:
        """Write one poll's records. The lock is held: no partition moves meanwhile."""
        ours = {
            partition: self._fresh(partition, raws) for partition, raws in found.items() if partition in self._owned
        }
        batch = {partition: raws for partition, raws in ours.items() if raws}
        if not batch:
            return
        records, letters = self._parse(batch)
        if letters:
            await self._publisher.publish(letters)
        moves = [
            Move(*partition, old=owned.next_offset, new=batch[partition][-1].offset + 1, epoch=owned.epoch)
            for partition, owned in self._owned.items()
            if partition in batch
        ]
        started_s = monotonic_s()
        writes = await self._write(moves, records, batch)
        failpoint("projection.committed")
        self._metrics.transaction.observe(monotonic_s() - started_s)
        for move in moves:
            partition = (move.topic, move.partition)
            self._owned[partition] = replace(self._owned[partition], next_offset=move.new)
        self._count(batch, writes)

    async def _write(
        self, moves: Sequence[Move], records: list[ParsedRecord], batch: Mapping[Partition, list[RawRecord]]
    ) -> Writes:
        """One transaction. Records on which the fold fails are dead-lettered and left out."""
        while True:
            try:
                return await self._database.write(partial(self._in_transaction, moves=moves, records=records))
            except RecordFailedError as error:
                at = error.position
                partition = (at.topic, at.partition)
                raw = next(raw for raw in batch[partition] if raw.offset == at.offset)
                log.error(
                    "readmodel_record_failed", topic=at.topic, partition=at.partition, offset=at.offset, exc_info=error
                )
                await self._publisher.publish([self._dead(partition, raw, PoisonError("fold_failed", error.detail))])
                records = [record for record in records if record.position != at]

    def _in_transaction(self, conn: Connection, moves: Sequence[Move], records: Sequence[ParsedRecord]) -> Writes:
        writes = store.apply(conn, moves, records, self._now_ms(), self._database.build)
        failpoint("projection.in_transaction")
        return writes

    def _fresh(self, partition: Partition, raws: list[RawRecord]) -> list[RawRecord]:
        next_offset = self._owned[partition].next_offset
        return [raw for raw in raws if raw.offset >= next_offset]

    def _parse(self, batch: Mapping[Partition, list[RawRecord]]) -> tuple[list[ParsedRecord], list[DeadLetter]]:
        records: list[ParsedRecord] = []
        letters: list[DeadLetter] = []
        for partition, raws in batch.items():
            for raw in raws:
                try:
                    record = parse(partition, raw)
                except PoisonError as error:
                    letters.append(self._dead(partition, raw, error))
                    continue
                if record is not None:
                    records.append(record)
        return records, letters

    def _dead(self, partition: Partition, raw: RawRecord, error: PoisonError) -> DeadLetter:
        topic, number = partition
        self._metrics.dead.labels(topic, error.reason).inc()
        log.warning("readmodel_dead_letter", topic=topic, partition=number, offset=raw.offset, reason=error.reason)
        return dead_letter(raw, error, "readmodel", self._now_ms())

    def _count(self, batch: Mapping[Partition, list[RawRecord]], writes: Writes) -> None:
        metrics, now_ms = self._metrics, self._now_ms()
        for (topic, _), raws in batch.items():
            metrics.records.labels(topic).inc(len(raws))
            metrics.delay.labels(topic).observe(max(0, now_ms - raws[-1].timestamp_ms) / 1000)
        metrics.lag.set(max(0, now_ms - min(raws[-1].timestamp_ms for raws in batch.values())) / 1000)
        metrics.rows.inc(len(writes.rows))
        for reason, count in writes.ignored.items():
            metrics.ignored.labels(reason).inc(count)
        for row in writes.finished:
            metrics.finished.labels(row.status, row.found_by or "none").inc()
            model, code = metrics.models.of(row.model or "none"), metrics.codes.of(row.reason_code or "none")
            metrics.ended.labels(model, row.status, code).inc()
        for name, change in changes_by_model(writes.ledger.sums, self._prices).items():
            metrics.cost.labels(name).inc(change.usd)
            metrics.unpriced.labels(name).inc(change.unpriced)
            for kind, count in change.tokens.items():
                metrics.tokens.labels(kind).inc(count)
        if writes.repeated_results:
            metrics.repeated_results.inc(len(writes.repeated_results))
            log.error("readmodel_repeated_results", job_ids=writes.repeated_results[:10], invariant="I2")

    async def _tell_kafka(self) -> None:
        now_s = monotonic_s()
        if now_s - self._told_kafka_at_s < COMMIT_EVERY_S:
            return
        self._told_kafka_at_s = now_s
        fresh = {partition: at for partition, at in self.owned.items() if self._told_kafka.get(partition) != at}
        if fresh:
            # A failure is ignored: the next commit repeats it.
            with suppress(KafkaError, ValueError):
                await self._group.commit(self._group.epoch, fresh)
            self._told_kafka.update(fresh)
